"""The course of a request: which node is asked, when it is sent again, and when it fails.

A plan is a generator: it yields the next step, `Send` or `Pause`, and receives the replies. `sync` and `aio` execute
the steps; in a test, the test is the cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from replicator.address import Address
from replicator.client.errors import Rejected, Unavailable, UnknownOutcome
from replicator.client.requests import TOKEN, EncodedCommand, Reply, may_take_long
from replicator.client.routing import (
    ERR,
    LOST,
    NAME_COMMAND,
    STALE,
    ClusterMap,
    Failure,
    LookupResult,
    Prefer,
    RetryDecision,
    after_read_failure,
    after_write_failure,
    first_failure,
    has_unknown_outcome,
    lookup_commands,
    parse_lookup,
    parse_name,
)
from replicator.errors import ConfigError, Definite, ReplicatorError, Stale

T = TypeVar("T")

ATTEMPT_TIMEOUT_S = 3.0  # until a read asks whether the node is there; longer than a node takes to answer STALE
LOOKUP_TIMEOUT_S = 1.0
PAUSE_S = 0.05
SUSPECT_S = 2.0  # for which a node that did not answer is tried last


@dataclass(frozen=True, slots=True)
class Send:
    """Send the commands in one pipeline to that node. The plan receives a reply for each, or one `Failure` for all.

    After each `silent_s` without a reply, the node has to answer a PING, or the step has failed (None: it need not).
    """

    node: Address
    commands: Sequence[EncodedCommand]
    timeout_s: float
    silent_s: float | None = None

    @property
    def ping(self) -> Send:
        return Send(self.node, [(b"PING",)], LOOKUP_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Plan: TypeAlias = Generator[Send | Pause, list[Reply], T]


class Planner:
    """Makes the plans of one client. Its threads or tasks share what is known of the cluster."""

    def __init__(self, seeds: tuple[Address, ...], cluster: str, timeout_s: float, clock: Callable[[], float]) -> None:
        self._map = ClusterMap(seeds)
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._clock = clock
        self._lookups = itertools.count()
        self._reads = itertools.count()
        self._suspects: dict[Address, float] = {}  # nodes that did not answer, and until when they are tried last

    def write(self, commands: Sequence[EncodedCommand], id: str | None) -> Plan[list[Reply]]:
        """The replies to all commands. Raises `Rejected`, `UnknownOutcome`.

        With an id, the commands can be sent any number of times and take effect once.
        """
        attempts = _Attempts(self._clock, self._timeout_s)
        outcome_unknown = False
        while attempts.left_s > 0:
            try:
                leader = self._map.leader or (yield from self._find_leader(attempts))
            except ReplicatorError as error:
                if outcome_unknown:
                    raise UnknownOutcome(f"the write may or may not take effect: {error}", id) from error
                raise
            if leader is not None:
                replies = yield _sent_write(leader, commands, attempts.left_s, can_repeat=id is not None)
                failure = _write_failure(commands, replies)
                if failure is None:
                    return replies
                attempts.failures[leader] = str(failure)
                outcome_unknown = outcome_unknown or has_unknown_outcome(failure)
                match after_write_failure(failure, has_id=id is not None, outcome_unknown=outcome_unknown):
                    case RetryDecision.REJECTED:
                        raise _error(failure)
                    case RetryDecision.UNKNOWN:
                        raise UnknownOutcome(f"the write may or may not take effect. {leader}: {failure}", id)
                self._map = self._map.without_leader(leader)
            yield Pause(PAUSE_S)
        if outcome_unknown:
            raise UnknownOutcome(f"the write may or may not take effect, not confirmed {self._within(attempts)}", id)
        raise Unavailable(f"the write was not executed {self._within(attempts)}")

    def read(self, commands: Sequence[EncodedCommand], prefer: Prefer) -> Plan[list[Reply]]:
        """The replies of the first node that answers without an error. Raises `Stale`, `Rejected`."""
        attempts = _Attempts(self._clock, self._timeout_s)
        refused: dict[Address, Failure] = {}
        while attempts.left_s > 0:
            if self._map.leader is None:
                yield from self._find_leader(attempts)
            nodes = self._map.read_order(prefer, next(self._reads), self._current_suspects())
            for node in nodes:
                if attempts.left_s <= 0:
                    break
                replies = yield Send(node, commands, attempts.left_s, silent_s=ATTEMPT_TIMEOUT_S)
                failure = first_failure(replies)
                if failure is None:
                    return replies
                attempts.failures[node] = str(failure)
                match after_read_failure(failure):
                    case RetryDecision.REJECTED:
                        raise _error(failure)
                    case RetryDecision.REFUSED_HERE:
                        refused[node] = failure
                    case _:
                        self._suspects[node] = self._clock() + SUSPECT_S
                        self._map = self._map.without_leader(node)
            if refused.keys() >= set(nodes):
                break
            yield Pause(PAUSE_S)
        raise self._read_error(refused, attempts)

    def leader(self) -> Plan[Address]:
        """The current leader, by a new lookup. Raises `Unavailable`."""
        attempts = _Attempts(self._clock, self._timeout_s)
        while attempts.left_s > 0:
            leader = yield from self._find_leader(attempts)
            if leader is not None:
                return leader
            yield Pause(PAUSE_S)
        raise Unavailable(f"no leader was found {self._within(attempts)}")

    def _find_leader(self, attempts: _Attempts) -> Plan[Address | None]:
        """Ask one node after the other until an answer is current; otherwise take the one with the highest epoch.

        Raises `ConfigError`, `Rejected` if no node knows a leader and one refused the lookup.
        """
        best: LookupResult | None = None
        refusal: ReplicatorError | None = None
        for node in self._map.lookup_order(next(self._lookups)):
            if attempts.left_s <= 0:
                break
            replies = yield Send(node, lookup_commands(self._cluster), min(LOOKUP_TIMEOUT_S, attempts.left_s))
            failure = first_failure(replies)
            if failure is not None:
                attempts.failures[node] = str(failure)
                refusal = (yield from self._lookup_error(node, failure, attempts)) or refusal
                continue
            found = parse_lookup(replies)
            if found.leader is None:
                attempts.failures.setdefault(node, "this node does not know the leader")
            elif best is None or found.rank > best.rank:
                best = found
            if self._map.is_current(found):
                break
        if best is None:
            if refusal is not None:
                raise refusal
            return None
        self._map = self._map.updated(best)
        return best.leader

    def _lookup_error(self, node: Address, failure: Failure, attempts: _Attempts) -> Plan[ReplicatorError | None]:
        """The error of a lookup that will fail again, however often it is repeated."""
        if failure.code == ERR:
            timeout_s = max(0.0, min(LOOKUP_TIMEOUT_S, attempts.left_s))
            name = parse_name((yield Send(node, [NAME_COMMAND], timeout_s)))
            if name is None or name == self._cluster:
                return ConfigError(f"{node} does not belong to the cluster {self._cluster!r}: {failure.message}")
            return ConfigError(
                f"{node} belongs to the cluster {name!r}, not to {self._cluster!r}: connect with cluster={name!r}, in "
                f"a URL with ?cluster={quote(name)}"
            )
        return _error(failure) if after_read_failure(failure) is RetryDecision.REJECTED else None

    def _current_suspects(self) -> frozenset[Address]:
        now_s = self._clock()
        return frozenset(node for node, until_s in list(self._suspects.items()) if until_s > now_s)

    def _read_error(self, refused: dict[Address, Failure], attempts: _Attempts) -> Definite:
        refusals = sorted(refused.values(), key=lambda failure: failure.code != STALE)
        if refusals:
            return _error(refusals[0])
        return Unavailable(f"the read was not answered {self._within(attempts)}")

    def _within(self, attempts: _Attempts) -> str:
        failures = "; ".join(f"{node}: {text}" for node, text in attempts.failures.items())
        return f"within {self._timeout_s:g} s ({failures or 'no node was asked'})"


class _Attempts:
    """The time that one request has left, and the last failure of each node."""

    def __init__(self, clock: Callable[[], float], timeout_s: float) -> None:
        self._clock = clock
        self._until_s = clock() + timeout_s
        self.failures: dict[Address, str] = {}

    @property
    def left_s(self) -> float:
        return self._until_s - self._clock()


def _sent_write(leader: Address, commands: Sequence[EncodedCommand], left_s: float, *, can_repeat: bool) -> Send:
    if not can_repeat:
        return Send(leader, commands, left_s)
    if may_take_long(commands):  # if it were sent again, the leader would begin again
        return Send(leader, commands, left_s, silent_s=ATTEMPT_TIMEOUT_S)
    return Send(leader, commands, min(ATTEMPT_TIMEOUT_S, left_s))


def _write_failure(commands: Sequence[EncodedCommand], replies: Sequence[Reply]) -> Failure | None:
    failure = first_failure(replies)
    if failure is not None and commands[-1] == TOKEN and len(replies) > 1 and first_failure(replies[:-1]) is None:
        return Failure(LOST, f"executed, but the session token is missing: {failure}")
    return failure


def _error(failure: Failure) -> Definite:
    return Stale(failure.message) if failure.code == STALE else Rejected(failure.code, failure.message)
