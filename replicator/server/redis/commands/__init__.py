"""The commands, one module for each family. The table is complete, as importing this package imports every family."""

from replicator.server.redis.commands import (  # noqa: F401
    changes,
    connection,
    expiry,
    hashes,
    keys,
    levels,
    nodes,
    once,
    procedures,
    pubsub,
    replication,
    scan,
    scripts,
    sentinel,
    server,
    sql,
    strings,
    transactions,
)
from replicator.server.redis.commands.registry import BY_SPELLING, COMMANDS, find, look_up

__all__ = ["BY_SPELLING", "COMMANDS", "find", "look_up"]
