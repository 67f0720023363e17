"""Every error that replicator raises on purpose.

    ReplicatorError
    ├── ConfigError              a setting is wrong; nothing was started
    ├── BrokerUnavailable        Kafka does not answer; try again
    ├── LogDamage                the log breaks its own rules; this node stops applying and serving
    ├── LogTrimmed               the offset wanted is below the start of the log: start from a snapshot
    ├── UpgradeNeeded            a record is newer than this program
    ├── Diverged                 this replica differs from the log; it must heal from a snapshot
    ├── StoreError               the local store cannot be opened or written
    │   └── StoreFull            the disk is full; nothing was skipped
    ├── SnapshotError            a snapshot is missing, incomplete or of another cluster
    ├── Definite                 a request had no effect and never will
    │   ├── BadRequest           -ERR …            the request itself is wrong
    │   ├── WrongType            -WRONGTYPE …      the row holds another kind of value
    │   ├── NotLeader            -READONLY …       this node does not take writes
    │   ├── NoReplicas           -NOREPLICAS …     the sync policy cannot be met now
    │   ├── Busy                 -BUSY …           too many writes in flight
    │   ├── Fenced               -FENCED …         another leader took over; the record is void
    │   ├── Stale                -STALE …          a read level cannot be met here and now
    │   ├── Unblocked            -UNBLOCKED …      the lead was lost while a command waited
    │   └── Loading              -LOADING …        the node is not ready to serve
    └── Indefinite               a request may or may not take effect
        └── Unknown              -UNKNOWN offset N

A write ends in OK, in a `Definite` error (REJECTED) or in an `Indefinite` one (UNKNOWN).
"""

from __future__ import annotations


class ReplicatorError(Exception):
    """Root of the tree. `str(error)` is a sentence that says what to do."""


class ConfigError(ReplicatorError):
    pass


class BrokerUnavailable(ReplicatorError):
    pass


class LogDamage(ReplicatorError):
    pass


class LogTrimmed(ReplicatorError):
    pass


class UpgradeNeeded(ReplicatorError):
    pass


class Diverged(ReplicatorError):
    pass


class StoreError(ReplicatorError):
    pass


class StoreFull(StoreError):
    pass


class SnapshotError(ReplicatorError):
    pass


class Definite(ReplicatorError):
    """No effect, now or later. `code` is the first word of the RESP error."""

    code = "ERR"


class BadRequest(Definite):
    pass


class WrongType(Definite):
    code = "WRONGTYPE"

    def __init__(self) -> None:
        super().__init__("Operation against a key holding the wrong kind of value")


class NotLeader(Definite):
    code = "READONLY"


class NoReplicas(Definite):
    code = "NOREPLICAS"


class Busy(Definite):
    code = "BUSY"


class Fenced(Definite):
    code = "FENCED"


class Stale(Definite):
    code = "STALE"


class Unblocked(Definite):
    code = "UNBLOCKED"


class Loading(Definite):
    code = "LOADING"


class Indefinite(ReplicatorError):
    """May or may not take effect."""

    code = "UNKNOWN"


class Unknown(Indefinite):
    def __init__(self, offset: int, why: str) -> None:
        super().__init__(f"offset {offset} {why}")
        self.offset = offset
