"""What a client decides: which node to ask, and what the error of a node means. Pure: no I/O, no clock.

error                      means                             a write                              a read
not sent, READONLY, BUSY,  not carried out, but may be soon  ask who leads, send it again         ask another node
LOADING, FENCED, NOREPLICAS
lost, UNKNOWN              perhaps carried out               the same under an id; else the end   ask another node
STALE, ERR                 no                                the end                              the end if all say so
any other                  no                                the end                              the end

A node that has stopped answers reads with ERR, as a bad request is answered: hence the other nodes are asked, too.
A write that was perhaps carried out never ends in REJECTED: a later refusal says nothing of the attempt before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Literal, NamedTuple, TypeAlias

from replicator.address import Address
from replicator.errors import ConfigError

Prefer: TypeAlias = Literal["leader", "follower"]

NOT_SENT = "NOTSENT"  # no connection: the node has seen nothing of it
LOST = "LOST"  # sent, and not answered
ERR = "ERR"
STALE = "STALE"


class Failure(NamedTuple):
    """An error that a node answered, or that stands for its answer."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message if self.code in (NOT_SENT, LOST) else f"{self.code} {self.message}"


class Verdict(Enum):
    AGAIN = auto()
    NOT_HERE = auto()  # of a read: this node will not answer it
    REJECTED = auto()
    UNKNOWN = auto()


_SOON = frozenset({NOT_SENT, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS"})
_DOUBT = frozenset({LOST, "UNKNOWN"})
_NOT_HERE = frozenset({STALE, ERR})


def is_doubtful(failure: Failure) -> bool:
    return failure.code in _DOUBT


def judge_write(failure: Failure, *, has_id: bool, doubtful: bool) -> Verdict:
    """`doubtful`: some attempt, this one or one before, was perhaps carried out."""
    if failure.code in _SOON or (has_id and is_doubtful(failure)):
        return Verdict.AGAIN
    return Verdict.UNKNOWN if doubtful else Verdict.REJECTED


def judge_read(failure: Failure) -> Verdict:
    if failure.code in _SOON or is_doubtful(failure):
        return Verdict.AGAIN
    return Verdict.NOT_HERE if failure.code in _NOT_HERE else Verdict.REJECTED


def first_failure(replies: Sequence[Any]) -> Failure | None:
    return next((it for it in replies if isinstance(it, Failure)), None)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one node tells of the cluster."""

    leader: Address | None
    replicas: tuple[Address, ...]
    epoch: int
    down: bool  # the leader has fallen silent, as far as that node can tell

    @property
    def rank(self) -> tuple[int, bool]:
        return self.epoch, not self.down


def parse_nodes(nodes: Sequence[str]) -> tuple[Address, ...]:
    """Raises `ConfigError`."""
    if isinstance(nodes, str) or not nodes:
        raise ConfigError("give the addresses of some nodes in a list, for instance ['127.0.0.1:7001']")
    return tuple(Address.parse(node) for node in nodes)


def questions(cluster: str) -> list[tuple[bytes, ...]]:
    return [(b"SENTINEL", b"MASTER", cluster.encode()), (b"SENTINEL", b"REPLICAS", cluster.encode())]


def finding(replies: Sequence[Any]) -> Finding:
    """Out of the answers to `questions`."""
    master, replicas = _fields(replies[0]), [_fields(reply) for reply in replies[1]]
    return Finding(
        leader=_place(master) if master[b"ip"] else None,
        replicas=tuple(_place(replica) for replica in replicas),
        epoch=int(master[b"config-epoch"]),
        down=b"down" in master[b"flags"],
    )


def _fields(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _place(fields: Mapping[bytes, bytes]) -> Address:
    return Address(fields[b"ip"].decode(), int(fields[b"port"]))


@dataclass(frozen=True, slots=True)
class Map:
    """The cluster as a client knows it."""

    seeds: tuple[Address, ...]
    leader: Address | None = None
    replicas: tuple[Address, ...] = ()
    epoch: int = 0

    def after(self, found: Finding) -> Map:
        return Map(self.seeds, found.leader, found.replicas, found.epoch)

    def without(self, leader: Address) -> Map:
        """It does not lead, or does not answer; unless another has been found since."""
        return replace(self, leader=None, replicas=(*self.replicas, leader)) if self.leader == leader else self

    def is_news(self, found: Finding) -> bool:
        """Whether nobody else has to be asked. A node that is cut off may tell of a leader of long ago."""
        return found.leader is not None and not found.down and found.epoch >= self.epoch

    def sources(self, turn: int) -> list[Address]:
        """Whom to ask who leads: each time another one first, or a single node could mislead for ever."""
        return _turned(_distinct(self.seeds, self.replicas, self._leading), turn)

    def readers(self, prefer: Prefer, turn: int, suspects: frozenset[Address]) -> list[Address]:
        """Whom to ask for a read, in this order; followers in turn, those that did not answer lately last."""
        known = _distinct(self._leading, self.replicas) or _distinct(self.seeds)
        followers = _turned([it for it in known if it != self.leader], turn)
        order = [*self._leading, *followers] if prefer == "leader" else [*followers, *self._leading]
        return sorted(order, key=lambda place: place in suspects)

    @property
    def _leading(self) -> tuple[Address, ...]:
        return (self.leader,) if self.leader else ()


def _distinct(*places: Sequence[Address]) -> list[Address]:
    return list(dict.fromkeys(_chained(places)))


def _chained(places: Sequence[Sequence[Address]]) -> Iterator[Address]:
    for some in places:
        yield from some


def _turned(places: list[Address], turn: int) -> list[Address]:
    at = turn % len(places) if places else 0
    return places[at:] + places[:at]
