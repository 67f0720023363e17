"""Imports every family of commands, so that `commands.table.TABLE` is complete."""

from replicator.serve.commands import (  # noqa: F401
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

__all__ = ["TABLE"]
