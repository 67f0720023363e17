"""How a request is carried through: whom it asks, when it asks again, when it gives up.

A plan is a generator: it yields what is to be done, `Ask` or `Pause`, and is sent the replies. `sync` and `aio` do what
it says, each in its own way; a test can play the cluster.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from replicator.address import Address
from replicator.client.errors import Rejected, Unavailable, UnknownOutcome
from replicator.client.requests import TOKEN, Line, Reply
from replicator.client.routing import (
    ERR,
    LOST,
    STALE,
    Failure,
    Finding,
    Map,
    Prefer,
    Verdict,
    finding,
    first_failure,
    is_doubtful,
    judge_read,
    judge_write,
    questions,
)
from replicator.errors import ConfigError, Definite, ReplicatorError, Stale

T = TypeVar("T")

ATTEMPT_S = 3.0  # for an answer, before another node is asked; longer than a node takes to say STALE
LOOK_UP_S = 1.0
PAUSE_S = 0.05
SUSPECT_S = 2.0  # for which a node that did not answer is asked last


@dataclass(frozen=True, slots=True)
class Ask:
    """Send the lines, all at once, to that node. Sent back: a reply for each, or one `Failure` for all."""

    place: Address
    lines: Sequence[Line]
    within_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Plan: TypeAlias = Generator[Ask | Pause, list[Reply], T]


class Planner:
    """Makes the plans of one client; its threads or tasks share what they learn of the cluster."""

    def __init__(self, seeds: tuple[Address, ...], cluster: str, timeout_s: float, clock: Callable[[], float]) -> None:
        self._map = Map(seeds)
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._clock = clock
        self._look_ups = itertools.count()
        self._reads = itertools.count()
        self._suspects: dict[Address, float] = {}  # and until when

    def write(self, lines: Sequence[Line], id: str | None) -> Plan[list[Reply]]:
        """The replies to all lines. Raises `Rejected`, `UnknownOutcome`.

        With an id, the lines can be sent any number of times and take effect once.
        """
        tries = _Tries(self._clock, self._timeout_s)
        doubtful = False
        while tries.left_s > 0:
            try:
                leader = self._map.leader or (yield from self._look_up(tries))
            except ReplicatorError as error:
                if doubtful:
                    raise UnknownOutcome(f"the write may or may not take effect: {error}", id) from error
                raise
            if leader is not None:
                within_s = tries.left_s if id is None else min(ATTEMPT_S, tries.left_s)
                replies = yield Ask(leader, lines, within_s)
                failure = _write_failure(lines, replies)
                if failure is None:
                    return replies
                tries.problems[leader] = failure
                doubtful = doubtful or is_doubtful(failure)
                match judge_write(failure, has_id=id is not None, doubtful=doubtful):
                    case Verdict.REJECTED:
                        raise _refusal(failure)
                    case Verdict.UNKNOWN:
                        raise UnknownOutcome(f"the write may or may not take effect. {leader}: {failure}", id)
                self._map = self._map.without(leader)
            yield Pause(PAUSE_S)
        if doubtful:
            raise UnknownOutcome(f"the write may or may not take effect: {self._waited(tries)}", id)
        raise Unavailable(f"the write was not carried out: {self._waited(tries)}")

    def read(self, lines: Sequence[Line], prefer: Prefer) -> Plan[list[Reply]]:
        """The replies of the first node that gives some. Raises `Stale`, `Rejected`."""
        tries = _Tries(self._clock, self._timeout_s)
        refused: dict[Address, Failure] = {}
        while tries.left_s > 0:
            if self._map.leader is None:
                yield from self._look_up(tries)
            asked = self._map.readers(prefer, next(self._reads), self._suspected())
            for place in asked:
                if tries.left_s <= 0:
                    break
                replies = yield Ask(place, lines, min(ATTEMPT_S, tries.left_s))
                failure = first_failure(replies)
                if failure is None:
                    return replies
                tries.problems[place] = failure
                match judge_read(failure):
                    case Verdict.REJECTED:
                        raise _refusal(failure)
                    case Verdict.NOT_HERE:
                        refused[place] = failure
                    case _:
                        self._suspects[place] = self._clock() + SUSPECT_S
                        self._map = self._map.without(place)
            if refused.keys() >= set(asked):
                break
            yield Pause(PAUSE_S)
        raise self._unread(refused, tries)

    def leader(self) -> Plan[Address]:
        """Who leads now, asked anew. Raises `Unavailable`."""
        tries = _Tries(self._clock, self._timeout_s)
        while tries.left_s > 0:
            leader = yield from self._look_up(tries)
            if leader is not None:
                return leader
            yield Pause(PAUSE_S)
        raise Unavailable(f"nobody is known to lead: {self._waited(tries)}")

    def _look_up(self, tries: _Tries) -> Plan[Address | None]:
        """Ask each node who leads, until one knows for certain; else believe the one that knows of the latest.

        Raises `ConfigError`, `Rejected` if none knows, and one says that it will not tell.
        """
        best: Finding | None = None
        refusal: ReplicatorError | None = None
        for place in self._map.sources(next(self._look_ups)):
            if tries.left_s <= 0:
                break
            replies = yield Ask(place, questions(self._cluster), min(LOOK_UP_S, tries.left_s))
            failure = first_failure(replies)
            if failure is not None:
                tries.problems[place] = failure
                refusal = self._look_up_refused(place, failure) or refusal
                continue
            found = finding(replies)
            if found.leader is None:
                tries.problems.setdefault(place, Failure(ERR, "does not know who leads"))
            elif best is None or found.rank > best.rank:
                best = found
            if self._map.is_news(found):
                break
        if best is None:
            if refusal is not None:
                raise refusal
            return None
        self._map = self._map.after(best)
        return best.leader

    def _look_up_refused(self, place: Address, failure: Failure) -> ReplicatorError | None:
        """What waiting does not help against."""
        if failure.code == ERR:
            return ConfigError(f"{place} does not belong to the cluster {self._cluster!r}: {failure.message}")
        return _refusal(failure) if judge_read(failure) is Verdict.REJECTED else None

    def _suspected(self) -> frozenset[Address]:
        now_s = self._clock()
        return frozenset(place for place, until_s in list(self._suspects.items()) if until_s > now_s)

    def _unread(self, refused: dict[Address, Failure], tries: _Tries) -> Definite:
        refusals = sorted(refused.values(), key=lambda failure: failure.code != STALE)
        if refusals:
            return _refusal(refusals[0])
        return Unavailable(f"the read was not answered: {self._waited(tries)}")

    def _waited(self, tries: _Tries) -> str:
        problems = "; ".join(f"{place}: {failure}" for place, failure in tries.problems.items())
        return f"no node did what was asked within {self._timeout_s:g} s ({problems or 'none was asked'})"


class _Tries:
    """The time that one request has left, and what went wrong last at each node."""

    def __init__(self, clock: Callable[[], float], timeout_s: float) -> None:
        self._clock = clock
        self._until_s = clock() + timeout_s
        self.problems: dict[Address, Failure] = {}

    @property
    def left_s(self) -> float:
        return self._until_s - self._clock()


def _write_failure(lines: Sequence[Line], replies: Sequence[Reply]) -> Failure | None:
    failure = first_failure(replies)
    if failure is not None and lines[-1] == TOKEN and len(replies) > 1 and first_failure(replies[:-1]) is None:
        return Failure(LOST, f"carried out, but the token is missing: {failure}")
    return failure


def _refusal(failure: Failure) -> Definite:
    return Stale(failure.message) if failure.code == STALE else Rejected(failure.code, failure.message)
