"""File descriptors: clients get those that Kafka, the store and HTTP leave to them."""

from __future__ import annotations

import logging
import resource

from replicator.errors import ConfigError
from replicator.limits import RESERVED_DESCRIPTORS

logger = logging.getLogger(__name__)


def fit_clients(max_clients: int) -> int:
    """Raise the limit of open files as far as that many clients need; how many clients it allows.

    Raises `ConfigError` if it allows none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max_clients + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = clients_within(soft, max_clients)
    if allowed < 1:
        raise ConfigError(
            f"the limit of open files is {soft}, but a node needs {RESERVED_DESCRIPTORS} besides its clients: raise it "
            "with `ulimit -n`"
        )
    if allowed < max_clients:
        logger.warning(
            "max_clients is lowered from %d to %d: it takes %d open files, the limit is %d. Raise it with `ulimit -n`",
            max_clients,
            allowed,
            wanted,
            soft,
        )
    return allowed


def clients_within(soft: int, max_clients: int) -> int:
    """How many clients a limit of open files allows."""
    return max_clients if soft == resource.RLIM_INFINITY else min(max_clients, soft - RESERVED_DESCRIPTORS)
