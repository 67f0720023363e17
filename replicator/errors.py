"""The error types of replicator.

    ReplicatorError
    ├── ConfigError              a setting is invalid; nothing was started
    ├── BrokerUnavailable        Kafka does not answer; try again
    ├── LogDamage                the log was corrupted, truncated or replaced; the node stops applying and serving
    │   ├── LogTruncated         the log does not hold what this store has read of it
    │   └── LogReplaced          the topic was deleted, or deleted and recreated
    ├── LogTrimmed               the requested offset is below the start of the log: start from a snapshot
    ├── LogEnded                 the cluster was restored, as another one: this log has ended, and its nodes stop
    ├── UpgradeNeeded            a record, or the state of a stream, has a newer format than this program can read
    ├── Replaced                 another process has registered the id of this node; this one stops serving
    ├── Diverged                 the store of this replica does not match the log, or its own digest
    ├── StoreError               the local store cannot be opened or written
    │   ├── StoreFull            the disk is full; no record was skipped
    │   └── StoreUnreadable      its file is damaged
    ├── SnapshotError            a snapshot is missing, incomplete or of another cluster
    ├── RepositoryUnavailable    the repository of the snapshots does not answer; try again
    ├── Definite                 the request had no effect and never will
    │   ├── BadRequest           -ERR …            the request is invalid
    │   ├── WrongType            -WRONGTYPE …      the key holds a value of another type
    │   ├── NotLeader            -READONLY …       this node is not the leader
    │   ├── NoReplicas           -NOREPLICAS …     too few sync replicas are available for the write policy
    │   ├── Busy                 -BUSY …           the node cannot accept the request now; try again
    │   ├── Fenced               -FENCED …         another leader was elected; the record is void
    │   ├── Stale                -STALE …          this node cannot meet the read level in time
    │   ├── ChangesTrimmed       -TRIMMED …        this node does not keep the changes any more that were asked for
    │   ├── Unblocked            -UNBLOCKED …      leadership was lost while a command was blocked
    │   ├── Loading              -LOADING …        the node is not ready to serve
    │   └── InternalError        -ERR internal …   a bug of replicator: the log of the node has the details
    └── Indefinite               the request may or may not take effect
        └── Unknown              -UNKNOWN offset N

A write ends in OK, in a `Definite` error (REJECTED) or in an `Indefinite` error (UNKNOWN).
"""

from __future__ import annotations


class ReplicatorError(Exception):
    """Base class. `str(error)` says what is wrong and what to do."""


class ConfigError(ReplicatorError):
    pass


class BrokerUnavailable(ReplicatorError):
    pass


class LogDamage(ReplicatorError):
    pass


class LogTruncated(LogDamage):
    pass


class LogReplaced(LogDamage):
    pass


class LogTrimmed(ReplicatorError):
    pass


class LogEnded(ReplicatorError):
    pass


class UpgradeNeeded(ReplicatorError):
    pass


class Replaced(ReplicatorError):
    pass


class Diverged(ReplicatorError):
    def __init__(self, text: str, seq: int | None = None) -> None:
        """`seq`: of the record that shows it; None: the content of the store does."""
        super().__init__(text)
        self.seq = seq


class StoreError(ReplicatorError):
    pass


class StoreFull(StoreError):
    pass


class StoreUnreadable(StoreError):
    pass


class SnapshotError(ReplicatorError):
    pass


class RepositoryUnavailable(ReplicatorError):
    pass


class Definite(ReplicatorError):
    """The request had no effect and never will. `code` is the first word of the RESP error."""

    code = "ERR"


class BadRequest(Definite):
    pass


class TransactionTooLarge(BadRequest):
    """It would take the event loop of each node too long, or too much memory. It ends a transaction from BEGIN on."""

    code = "TOOLARGE"


class WrongType(Definite):
    code = "WRONGTYPE"

    def __init__(self) -> None:
        super().__init__("Operation against a key holding the wrong kind of value")


class NotLeader(Definite):
    code = "READONLY"


class NoReplicas(Definite):
    code = "NOREPLICAS"

    def __init__(self, missing: str, consequence: str = "") -> None:
        """`missing`: which acks; it is the first part of the text."""
        super().__init__(missing + consequence)
        self.missing = missing


class Busy(Definite):
    code = "BUSY"


class Fenced(Definite):
    code = "FENCED"


class Stale(Definite):
    code = "STALE"


class ChangesTrimmed(Definite):
    code = "TRIMMED"


class Unblocked(Definite):
    code = "UNBLOCKED"


class Loading(Definite):
    code = "LOADING"


class InternalError(Definite):
    pass


class Indefinite(ReplicatorError):
    """The request may or may not take effect."""

    code = "UNKNOWN"


class Unknown(Indefinite):
    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"offset {offset} {why}")
        self.offset = offset
