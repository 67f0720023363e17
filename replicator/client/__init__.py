"""A client that finds the leader, follows failovers, and executes each write once. docs/client.md is its manual.

`routing` makes the decisions, `plans` is the course of a request, `sync` and `aio` do the I/O. `sql` knows statements;
`dbapi` and `sqlalchemy_dialect` are for programs that use the interfaces of databases.
"""

try:
    import redis  # noqa: F401
except ImportError as error:
    raise ImportError('the client needs redis-py: `pip install "replicator[client]"`', name="redis") from error

from replicator.client.aio import AsyncClient, AsyncSession
from replicator.client.errors import Rejected, Unavailable, UnknownOutcome
from replicator.client.requests import bounded
from replicator.client.sql import SqlResult
from replicator.client.sync import Client, Session
from replicator.errors import BadRequest, ConfigError, Stale
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level

__all__ = [
    "EVENTUAL",
    "LINEARIZABLE",
    "AsyncClient",
    "AsyncSession",
    "BadRequest",
    "Client",
    "ConfigError",
    "Level",
    "Rejected",
    "Session",
    "SqlResult",
    "Stale",
    "Unavailable",
    "UnknownOutcome",
    "bounded",
]
