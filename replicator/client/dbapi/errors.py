"""The exceptions of PEP 249, and which one an error of the client or of a node becomes."""

from __future__ import annotations

from replicator.client.errors import Rejected, UnknownOutcome
from replicator.client.routing import ERR, Failure, has_unknown_outcome
from replicator.errors import BadRequest, ConfigError, ReplicatorError


class Warning(Exception):
    pass


class Error(Exception):
    pass


class InterfaceError(Error):
    pass


class DatabaseError(Error):
    pass


class DataError(DatabaseError):
    pass


class OperationalError(DatabaseError):
    """No node could execute the statement, or the transaction has ended: it can be run again."""


class ConflictError(OperationalError):
    """Another transaction was committed meanwhile, so that this one had no effect: run it again."""


class UnknownOutcomeError(OperationalError):
    """A write, or a COMMIT, may or may not take effect."""


class IntegrityError(DatabaseError):
    pass


class InternalError(DatabaseError):
    pass


class ProgrammingError(DatabaseError):
    pass


class NotSupportedError(DatabaseError):
    pass


ABORTED, CONFLICT, CONSTRAINT, SQL_ERROR, TOO_LARGE = "ABORTED", "CONFLICT", "CONSTRAINT", "SQLERROR", "TOOLARGE"
_OF_CODES: dict[str, type[Error]] = {
    CONFLICT: ConflictError,
    CONSTRAINT: IntegrityError,
    SQL_ERROR: ProgrammingError,
    TOO_LARGE: ProgrammingError,
    ERR: ProgrammingError,
}


def from_client(error: ReplicatorError) -> Error:
    match error:
        case UnknownOutcome():
            return UnknownOutcomeError(str(error))
        case Rejected():
            return _OF_CODES.get(error.code, OperationalError)(str(error))
        case BadRequest() | ConfigError():
            return ProgrammingError(str(error))
    return OperationalError(str(error))


def of_statement(failure: Failure) -> Error:
    """The error of a statement in a transaction."""
    kind = _OF_CODES.get(failure.code)
    if kind is None:
        return OperationalError(f"the transaction had no effect: {failure}")
    return kind(failure.message)


def of_lost_transaction(failure: Failure) -> Error:
    """The error of all that follows the failure in a transaction that has ended with it."""
    kind = _OF_CODES.get(failure.code, OperationalError)
    return kind(f"the transaction has ended with an error ({failure}): call rollback()")


def of_commit(failure: Failure) -> Error:
    if has_unknown_outcome(failure):
        return UnknownOutcomeError(f"the transaction may or may not take effect: {failure}")
    return of_statement(failure)
