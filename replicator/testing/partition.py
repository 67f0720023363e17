"""The replicas of the one partition of the log, one for each broker.

What is modelled, and where Kafka says so:

* An election begins a new leader epoch. A broker that is cut off does not learn of it: it goes on answering with its
  old epoch, and with what it held when it was cut off (KIP-101, KIP-320; metadata carries the epoch since version 7).
* An append with acks=all is acknowledged once all in-sync replicas have it, and refused while fewer than
  `min.insync.replicas` are in sync (error 19). Readers see only what all of these have. So an append that some of them
  lack cannot be told apart from one that has not arrived: here it is in all of them at once, or in none.
* A former leader that is cut off from the controller cannot remove the other replicas from the in-sync ones, and
  acknowledges nothing.
* A replica that is not in sync may become leader (`unclean.leader.election.enable`), and a broker may lose what its
  machine had not written to its disk before a crash. The records above its end are lost, although they were
  acknowledged; the other replicas drop them when they follow it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from replicator.log.kafka.partition import decode_batches, split_batches
from replicator.log.port import Entry
from replicator.position import Offset

MIN_IN_SYNC = 2  # of more than one broker


class StoredBatch(NamedTuple):
    base: Offset
    end: Offset  # the offset after its last record
    encoded: bytes
    appended_s: float


class PartitionLog:
    """The batches of one leader after the other. Once records are lost, the next leader has another one."""

    def __init__(self, batches: Sequence[StoredBatch] = ()) -> None:
        self.batches = list(batches)

    @property
    def end(self) -> Offset:
        return self.batches[-1].end if self.batches else Offset(0)

    def append(self, encoded: bytes, records: int, now_s: float) -> Offset:
        base = self.end
        # the checksum of a batch does not cover its offset
        at_base = base.to_bytes(8, "big") + encoded[8:]
        self.batches.append(StoredBatch(base, Offset(base + records), at_base, now_s))
        return base

    def from_offset(self, offset: Offset, end: Offset, limit: int) -> list[StoredBatch]:
        """At most `limit` batches, from the one that contains `offset` on, as far as they are below `end`."""
        first = bisect_right(self.batches, offset, key=lambda batch: batch.end)
        return [batch for batch in self.batches[first : first + limit] if batch.end <= end]

    def below(self, end: Offset) -> list[StoredBatch]:
        return [batch for batch in self.batches if batch.end <= end]

    def entries(self) -> list[Entry]:
        encoded = b"".join(batch.encoded for batch in self.batches)
        return list(decode_batches(split_batches(encoded), Offset(0)))

    def appended_s(self) -> list[float]:
        """When each entry was appended, by offset."""
        return [batch.appended_s for batch in self.batches for _ in range(batch.base, batch.end)]


class Replica:
    """The partition as one broker has it."""

    def __init__(self, broker: int, log: PartitionLog) -> None:
        self.broker = broker
        self.leader = 0  # the broker that it takes for the leader
        self.epoch = 0  # the leader epoch that it knows
        self.log = log
        self.cut_off = False  # from the controller and the other brokers
        self.restarts = 0  # each ends all connections
        self._stopped_at: Offset | None = None  # where its copy ends; None: it is in sync
        self.waiting: list[Callable[[], None]] = []  # fetches that wait for the next records

    @property
    def leads(self) -> bool:
        """Whether it believes that it is the leader."""
        return self.leader == self.broker

    @property
    def in_sync(self) -> bool:
        return self._stopped_at is None

    @property
    def end(self) -> Offset:
        return self.log.end if self._stopped_at is None else self._stopped_at

    def stop_at_end(self) -> None:
        """It fetches nothing any more from the leader."""
        self._stopped_at = self.end

    def follow(self, log: PartitionLog) -> None:
        self.log, self._stopped_at = log, None

    def restart(self) -> None:
        self.restarts += 1
        self.wake()

    def learn(self, leader: int, epoch: int) -> None:
        self.leader, self.epoch = leader, epoch
        self.wake()

    def wake(self) -> None:
        """Answer the fetches that wait, as far as they need not wait any more."""
        waiting, self.waiting = self.waiting, []
        for fetch in waiting:
            fetch()


class Loss(NamedTuple):
    """Acknowledged records that Kafka has lost."""

    at_s: float
    end: Offset  # of what was left
    log: PartitionLog  # as it was before


class Partition:
    def __init__(self, brokers: int) -> None:
        self.log = PartitionLog()  # of the present leader
        self.replicas = [Replica(broker, self.log) for broker in range(brokers)]
        self.epoch = 0
        self.leader = self.replicas[0]
        self.losses: list[Loss] = []

    @property
    def others(self) -> list[Replica]:
        return [it for it in self.replicas if it is not self.leader]

    @property
    def accepts_appends(self) -> bool:
        return sum(it.in_sync for it in self.replicas) >= min(MIN_IN_SYNC, len(self.replicas))

    def append(self, encoded: bytes, records: int, now_s: float) -> Offset:
        base = self.log.append(encoded, records, now_s)
        self.leader.wake()
        return base

    def elect(self, replica: Replica, now_s: float) -> None:
        """The controller makes it the leader. What it lacks is lost."""
        if replica.end < self.log.end:
            kept = PartitionLog(self.log.below(replica.end))
            self.losses.append(Loss(now_s, kept.end, self.log))
            self.log = kept
        self.epoch += 1
        self.leader = replica
        replica.follow(self.log)
        for it in self.replicas:
            if not it.cut_off:
                if it.in_sync or it.log is not self.log:
                    it.follow(self.log)
                it.learn(replica.broker, self.epoch)

    def cut_off(self, replica: Replica) -> None:
        replica.cut_off = True
        replica.stop_at_end()

    def rejoin(self, replica: Replica) -> None:
        """It is in touch with the others again, and catches up."""
        replica.cut_off = False
        replica.follow(self.log)
        replica.learn(self.leader.broker, self.epoch)

    def restart_with(self, end: Offset, now_s: float) -> None:
        """The machines of all in-sync brokers have crashed, and their disks have no more than that."""
        self.leader.log = PartitionLog(self.log.below(end))
        self.leader.restart()
        self.elect(self.leader, now_s)
