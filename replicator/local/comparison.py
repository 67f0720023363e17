"""Compares the stores of all members at one checkpoint, and names the entries that differ (`node.store_comparison`).

First all nodes keep their state at the next checkpoint, which the leader appends. The leader then splits its keys into
ranges, the others compute the digests of the same ranges, and only the entries of ranges that differ are listed.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from replicator.errors import ReplicatorError
from replicator.limits import COMPARED_ENTRIES, COMPARED_RANGE_ENTRIES
from replicator.local.admin_client import ClusterAdmin, NodeRefused, NodeUnreachable
from replicator.local.comparison_admin import ComparisonAdmin
from replicator.local.progress import NO_PROGRESS, ProgressReporter
from replicator.local.status import FAILED, REPLACED, UNREACHABLE, MemberStatus
from replicator.store.digest import DIGEST_MASK
from replicator.store.keys import decode_key

APPLY_S = 60.0  # for a replica to apply the checkpoint
KEEP_S = 3.0  # between two requests to a node that keeps its state until the others have applied the checkpoint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ComparedNode:
    id: str
    role: str | None
    mode: str
    result: str  # `EQUAL`, `DIFFERS` or `NOT_COMPARED`
    entries: int | None  # of the store, counted; None: it was not compared
    digest: str | None  # computed from the entries
    trouble: str  # why it was not compared; or what is wrong with its store
    lost: str  # which offsets Kafka has lost that this node had read, the last time that its store was rebuilt


EQUAL, DIFFERS, NOT_COMPARED = "equal", "differs", "not compared"


@dataclass(frozen=True, slots=True)
class EntryDifference:
    table: str
    row: str  # bytes that are not UTF-8 are escaped with backslashes
    field: str  # empty: the row itself
    digests: Mapping[str, str | None]  # by node; None: the node does not have the entry


@dataclass(frozen=True, slots=True)
class StoreComparisonReport:
    offset: int
    nodes: Sequence[ComparedNode]
    differences: Sequence[EntryDifference]
    has_more: bool  # there are more differences than were asked for

    @property
    def all_equal(self) -> bool:
        return all(node.result == EQUAL for node in self.nodes)

    def as_json(self) -> dict[str, Any]:
        return {"equal": self.all_equal, **asdict(self)}


@dataclass(slots=True)
class _Compared:
    """What is known of one node so far."""

    status: MemberStatus
    admin: ComparisonAdmin
    keeps_state: bool = False  # until it is told to end the comparison
    trouble: str = ""  # not empty: it is not compared any more
    digest: int = 0
    entries: int = 0
    own: tuple[str, int] | None = None  # digest and number of entries that the store has written down


def compare_stores(
    admin: ClusterAdmin, limit: int, progress: ProgressReporter = NO_PROGRESS, apply_s: float = APPLY_S
) -> StoreComparisonReport:
    """Name at most `limit` entries that differ. Raises `NodeUnreachable`, `NodeRefused`: there is no leader."""
    statuses, id = admin.statuses(), secrets.token_hex(8)
    leader = admin.leader().http
    nodes = [_Compared(it, ComparisonAdmin(admin.node(it.member.http), id)) for it in statuses]
    with ThreadPoolExecutor(max_workers=max(1, len(nodes))) as pool:
        comparison = _Comparison(nodes, pool, progress)
        try:
            return comparison.run(next(it for it in nodes if it.status.member.http == leader), limit, apply_s)
        finally:
            comparison.end()


class _Comparison:
    def __init__(self, nodes: Sequence[_Compared], pool: ThreadPoolExecutor, progress: ProgressReporter) -> None:
        self._nodes = nodes
        self._pool = pool
        self._progress = progress
        self._offset = -1

    def run(self, leader: _Compared, limit: int, apply_s: float) -> StoreComparisonReport:
        for node in self._nodes:
            if node.status.node.state in (UNREACHABLE, FAILED, REPLACED):
                node.trouble = node.status.node.trouble or node.status.node.state
        self._each(_begin)
        if leader.trouble:
            raise NodeRefused(f"{leader.status.member.node}: {leader.trouble}")
        self._progress.step("appending a checkpoint")
        self._offset = leader.admin.checkpoint()
        self._progress.step(f"waiting until all nodes have applied offset {self._offset}")
        self._await_states(apply_s)
        if leader.trouble:
            raise NodeRefused(f"{leader.status.member.node}: {leader.trouble}")
        differing = list(self._differing_ranges(leader))
        differences = list(self._differences(differing, limit + 1))
        return StoreComparisonReport(
            self._offset, self._results(leader), differences[:limit], has_more=len(differences) > limit
        )

    def end(self) -> None:
        for node in self._nodes:
            if node.keeps_state:
                self._pool.submit(_end, node)

    @property
    def _compared(self) -> list[_Compared]:
        return [node for node in self._nodes if not node.trouble]

    def _each(self, ask: Callable[[_Compared], T]) -> dict[str, T]:
        """The answers of the nodes that are compared, by id, all asked at once. One that fails is not compared."""

        def answer(node: _Compared) -> T | None:
            try:
                return ask(node)
            except ReplicatorError as error:
                node.trouble = str(error)
                if isinstance(error, NodeUnreachable):
                    node.keeps_state = False  # it ends by itself
                return None

        nodes = self._compared
        answers = zip(nodes, self._pool.map(answer, nodes), strict=True)
        return {node.status.member.node: it for node, it in answers if not node.trouble}  # type: ignore[misc]

    def _await_states(self, apply_s: float) -> None:
        deadline, waiting = time.monotonic() + apply_s, {it.status.member.node for it in self._compared}
        are_settled = threading.Event()

        def await_state(node: _Compared) -> None:
            try:
                node.own = self._state_before(node, deadline, apply_s)
            finally:
                waiting.discard(node.status.member.node)
                if not waiting:
                    are_settled.set()
            while not are_settled.wait(KEEP_S):  # a node without requests would end the comparison
                node.admin.state(self._offset)

        self._each(await_state)

    def _state_before(self, node: _Compared, deadline: float, apply_s: float) -> tuple[str, int]:
        while (state := node.admin.state(self._offset)) is None:
            if time.monotonic() > deadline:
                trouble = node.admin.node.status().node.trouble
                raise ReplicatorError(
                    f"it has not applied the log up to offset {self._offset} within {apply_s:.0f} s"
                    + (f": {trouble}" if trouble else "")
                )
        return state

    def _differing_ranges(self, leader: _Compared) -> Iterator[tuple[str, str]]:
        start, total = "", leader.own[1] if leader.own else 0
        while True:
            ranges = leader.admin.split(self._offset, start, "", COMPARED_RANGE_ENTRIES)
            bounds = [it.start for it in ranges] + [ranges[-1].stop]
            others = self._each(
                lambda node, bounds=bounds, ranges=ranges: (  # type: ignore[misc]
                    ranges if node is leader else node.admin.digests(self._offset, bounds)
                )
            )
            for node in self._compared:
                for found in others[node.status.member.node]:
                    node.digest = (node.digest + int(found.digest, 16)) & DIGEST_MASK
                    node.entries += found.entries
            for index, it in enumerate(ranges):
                if len({(found[index].digest, found[index].is_complete) for found in others.values()}) > 1:
                    yield it.start, it.stop
            self._progress.bar("verify", "comparing entries", leader.entries, max(total, leader.entries))
            start = ranges[-1].stop
            if not start:
                return

    def _differences(self, ranges: Sequence[tuple[str, str]], limit: int) -> Iterator[EntryDifference]:
        count = 0
        for start, stop in ranges:
            found = self._each(lambda node, start=start, stop=stop: dict(self._entries(node, start, stop)))  # type: ignore[misc]
            keys = sorted({key for entries in found.values() for key in entries})
            for key in keys:
                digests = {id: entries.get(key) for id, entries in found.items()}
                if len(set(digests.values())) > 1:
                    yield _difference(bytes.fromhex(key), digests)
                    count += 1
                    if count == limit:
                        return

    def _entries(self, node: _Compared, start: str, stop: str) -> Iterator[tuple[str, str]]:
        while True:
            entries, are_all = node.admin.entries(self._offset, start, stop, COMPARED_ENTRIES)
            yield from entries
            if are_all or not entries:
                return
            start = f"{entries[-1][0]}00"  # the next key

    def _results(self, leader: _Compared) -> list[ComparedNode]:
        """The store that most nodes have is right; if there is none, that of the leader."""
        counts = Counter((node.digest, node.entries) for node in self._compared)
        own = (leader.digest, leader.entries)
        most = max(counts, key=lambda it: (counts[it], it == own), default=own)
        return [self._result(node, most) for node in sorted(self._nodes, key=lambda it: it.status.member.node)]

    def _result(self, node: _Compared, most: tuple[int, int]) -> ComparedNode:
        member, heal = node.status.member, node.status.node.healed
        lost = heal.describe_lost() if heal is not None and heal.lost else ""
        role, found = node.status.node.role, f"{node.digest:032x}"
        if node.trouble:
            return ComparedNode(member.node, role, member.mode, NOT_COMPARED, None, None, node.trouble, lost)
        trouble = ""
        if node.own is not None and node.own != (found, node.entries):
            trouble = f"its entries do not have the digest that was written down with them: {node.own[0]}"
        result = EQUAL if (node.digest, node.entries) == most and not trouble else DIFFERS
        return ComparedNode(member.node, role, member.mode, result, node.entries, found, trouble, lost)


def _begin(node: _Compared) -> None:
    node.admin.begin()
    node.keeps_state = True


def _end(node: _Compared) -> None:
    with contextlib.suppress(NodeUnreachable, NodeRefused):  # it ends by itself
        node.admin.end()


def _difference(key: bytes, digests: Mapping[str, str | None]) -> EntryDifference:
    try:
        table, row, field = decode_key(key)
    except ValueError:  # a damaged key
        table, row, field = "?", key, b""
    return EntryDifference(table, _text(row), _text(field), digests)


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")
