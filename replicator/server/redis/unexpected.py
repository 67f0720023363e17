"""Exceptions of commands that nothing expects: bugs. The client gets an error, and the node's log has the details."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from replicator.errors import InternalError, ReplicatorError

logger = logging.getLogger(__name__)


def internal_error(command: bytes, error: Exception) -> InternalError:
    """Log the exception. The command must have had no effect, and sent no reply."""
    name = command.decode(errors="replace").upper()
    logger.error("%s has failed, which is a bug: the client was sent an error", name, exc_info=error)
    return InternalError(
        f"internal error in {name} ({type(error).__name__}), it had no effect: see the log of the node"
    )


@contextmanager
def as_internal_error(command: bytes) -> Iterator[None]:
    """Other exceptions than `ReplicatorError` become an `InternalError`."""
    try:
        yield
    except ReplicatorError:
        raise
    except Exception as error:
        raise internal_error(command, error) from error
