"""Imports every family of commands, so that `commands.registry.TABLE` is complete."""

from replicator.server.redis.commands import (  # noqa: F401
    connection,
    expiry,
    hashes,
    keys,
    levels,
    once,
    pubsub,
    scan,
    sentinel,
    server,
    strings,
    transactions,
)
from replicator.server.redis.commands.registry import TABLE

__all__ = ["TABLE"]
