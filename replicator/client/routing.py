"""Pure decisions of the client: which nodes to ask, and how to handle the error of a node. No I/O, no clock.

error                      meaning                     write                               read
not sent, READONLY, BUSY,  not executed; retryable     look up the leader and send again   try another node
LOADING, FENCED, NOREPLICAS,
CONFLICT
lost, UNKNOWN              outcome unknown             with an id: send again;             try another node
                                                       without: UnknownOutcome
STALE, ERR                 refused by this node        Rejected                            final if all nodes refuse
any other                  refused                     Rejected                            Rejected

A node that has stopped serving answers reads with ERR, like an invalid request: so the other nodes are tried.
If the outcome of one attempt of a write is unknown, the write never ends in Rejected: a refusal of a later attempt does
not prove that the earlier one was not executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeAlias

from replicator.address import Address
from replicator.errors import ConfigError

Prefer: TypeAlias = Literal["leader", "follower"]

NOT_SENT = "NOTSENT"  # no connection: the node has not received the request
LOST = "LOST"  # sent, but not answered
ERR = "ERR"
STALE = "STALE"


class Failure(NamedTuple):
    """The error that a node answered, or `NOT_SENT` or `LOST` in place of an answer."""

    code: str
    message: str

    def __str__(self) -> str:
        return self.message if self.code in (NOT_SENT, LOST) else f"{self.code} {self.message}"


class RetryDecision(Enum):
    RETRY = auto()
    REFUSED_HERE = auto()  # of a read: this node will not answer it, another one may
    REJECTED = auto()
    UNKNOWN = auto()


_RETRYABLE = frozenset({NOT_SENT, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS", "CONFLICT"})
_UNKNOWN_OUTCOME = frozenset({LOST, "UNKNOWN"})
_REFUSED_HERE = frozenset({STALE, ERR})


def has_unknown_outcome(failure: Failure) -> bool:
    return failure.code in _UNKNOWN_OUTCOME


def after_write_failure(failure: Failure, *, has_id: bool, outcome_unknown: bool) -> RetryDecision:
    """`outcome_unknown`: the outcome of this or an earlier attempt is unknown."""
    if failure.code in _RETRYABLE or (has_id and has_unknown_outcome(failure)):
        return RetryDecision.RETRY
    return RetryDecision.UNKNOWN if outcome_unknown else RetryDecision.REJECTED


def after_read_failure(failure: Failure) -> RetryDecision:
    if failure.code in _RETRYABLE or has_unknown_outcome(failure):
        return RetryDecision.RETRY
    return RetryDecision.REFUSED_HERE if failure.code in _REFUSED_HERE else RetryDecision.REJECTED


def first_failure(replies: Sequence[Any]) -> Failure | None:
    return next((it for it in replies if isinstance(it, Failure)), None)


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The leader and the replicas as one node knows them."""

    leader: Address | None
    replicas: tuple[Address, ...]
    epoch: int
    down: bool  # that node receives no heartbeats from the leader

    @property
    def rank(self) -> tuple[int, bool]:
        return self.epoch, not self.down


def parse_nodes(nodes: Sequence[str]) -> tuple[Address, ...]:
    """Raises `ConfigError`."""
    if isinstance(nodes, str) or not nodes:
        raise ConfigError("give the addresses of some nodes in a list, for example ['127.0.0.1:7001']")
    return tuple(Address.parse(node) for node in nodes)


def lookup_commands(cluster: str) -> list[tuple[bytes, ...]]:
    return [(b"SENTINEL", b"MASTER", cluster.encode()), (b"SENTINEL", b"REPLICAS", cluster.encode())]


NAME_COMMAND = (b"SENTINEL", b"MASTERS")
"""Asks a node for the name of its cluster."""


def parse_name(replies: Sequence[Any]) -> str | None:
    """`replies` to `NAME_COMMAND`. None if they have no name."""
    try:
        [[master]] = replies
        return _fields(master)[b"name"].decode()
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


def parse_lookup(replies: Sequence[Any]) -> LookupResult:
    """`replies` to `lookup_commands`."""
    master, replicas = _fields(replies[0]), [_fields(reply) for reply in replies[1]]
    return LookupResult(
        leader=_address_of(master) if master[b"ip"] else None,
        replicas=tuple(_address_of(replica) for replica in replicas),
        epoch=int(master[b"config-epoch"]),
        down=b"down" in master[b"flags"],
    )


def _fields(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


def _address_of(fields: Mapping[bytes, bytes]) -> Address:
    return Address(fields[b"ip"].decode(), int(fields[b"port"]))


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """The cluster as the client knows it."""

    seeds: tuple[Address, ...]
    leader: Address | None = None
    replicas: tuple[Address, ...] = ()
    epoch: int = 0

    def updated(self, found: LookupResult) -> ClusterMap:
        return ClusterMap(self.seeds, found.leader, found.replicas, found.epoch)

    def without_leader(self, leader: Address) -> ClusterMap:
        """After `leader` did not answer, or not as leader. Unchanged if another leader was found meanwhile."""
        return replace(self, leader=None, replicas=(*self.replicas, leader)) if self.leader == leader else self

    def is_current(self, found: LookupResult) -> bool:
        """Whether no other node has to be asked. A node that is cut off may still name an old leader."""
        return found.leader is not None and not found.down and found.epoch >= self.epoch

    def lookup_order(self, turn: int) -> list[Address]:
        """The nodes to ask for the leader. Each lookup begins with another node, in case one keeps an outdated view."""
        return _rotated(_distinct(self.seeds, self.replicas, self._leaders), turn)

    def read_order(self, prefer: Prefer, turn: int, suspects: frozenset[Address]) -> list[Address]:
        """The nodes to ask for a read: followers in turn, nodes that did not answer recently last."""
        known = _distinct(self._leaders, self.replicas) or _distinct(self.seeds)
        followers = _rotated([it for it in known if it != self.leader], turn)
        order = [*self._leaders, *followers] if prefer == "leader" else [*followers, *self._leaders]
        return sorted(order, key=lambda node: node in suspects)

    @property
    def _leaders(self) -> tuple[Address, ...]:
        """One or none."""
        return (self.leader,) if self.leader else ()


def _distinct(*nodes: Sequence[Address]) -> list[Address]:
    return list(dict.fromkeys(chain(*nodes)))


def _rotated(nodes: list[Address], turn: int) -> list[Address]:
    start = turn % len(nodes) if nodes else 0
    return nodes[start:] + nodes[:start]
