"""Why a statement failed. All of these are definite: it had no effect."""

from __future__ import annotations

from replicator.errors import Definite


class SqlError(Definite):
    """The statement is invalid: a syntax error, a table that does not exist, a function that is refused, …"""

    code = "SQLERROR"


class ConstraintFailed(SqlError):
    """A row would violate a constraint of its table."""

    code = "CONSTRAINT"


NO_INDEXED_BY = "INDEXED BY is not supported: leave it out"


class OutOfMemory(SqlError):
    """The node has too little memory, or too many threads, for another statement."""

    def __init__(self, text: str = "the SQL engine of this node is out of memory") -> None:
        super().__init__(text)
