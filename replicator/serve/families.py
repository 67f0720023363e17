"""Imports every family of commands, so that `commands.table.TABLE` is complete."""

from replicator.serve.commands import (
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
from replicator.serve.commands.table import TABLE

FAMILIES = (
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

__all__ = ["FAMILIES", "TABLE"]
