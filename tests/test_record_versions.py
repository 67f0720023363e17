"""Records that hold several transactions, and the upgrade of a cluster to the version of records that has them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.node import grouping
from replicator.node.grouping import in_records
from replicator.node.writes import PendingWrite
from replicator.position import Author, NodeId, Offset
from replicator.protocol.membership import with_version
from replicator.records.codec import RecordCodec
from replicator.records.types import (
    Change,
    Claim,
    Group,
    Heartbeat,
    Member,
    Membership,
    Mode,
    Policy,
    Record,
    Single,
    Write,
    singles,
)
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import ALL, ASYNC, SYNC, ModesCluster, begin_write


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[ModesCluster]:
    cluster = ModesCluster(tmp_path)
    yield cluster
    await cluster.stop()


def records(cluster: ModesCluster) -> list[Record]:
    codec = RecordCodec()
    return [codec.decode(entry.payload, b"") for entry in cluster.log.entries]


async def write_together(leader: RunningNode, count: int = 20) -> set[object]:
    """So many writes at once. Their offsets."""
    writes = [begin_write(leader, b"k%d" % number, b"sv") for number in range(count)]
    return {await write for write in writes}


async def test_writes_that_are_appended_together_are_one_record(cluster: ModesCluster) -> None:
    await cluster.set_up(ALL, SYNC, SYNC)
    seq = cluster.n1.machine.state.seq
    offsets = await write_together(cluster.n1)
    groups = [it for it in records(cluster) if isinstance(it.body, Group)]
    assert len(offsets) <= 2 and groups  # the first may have been sent before the others arrived
    assert cluster.n1.machine.state.seq >= seq + 20
    await cluster.caught_up()
    assert cluster.n2.machine.state == cluster.n1.machine.state
    assert cluster.n2.machine.meta.digest == cluster.n1.machine.meta.digest


async def test_a_group_whose_outcome_was_unknown_ends_as_one(cluster: ModesCluster) -> None:
    """The leader reads it in the log, and answers each of its writes."""
    await cluster.set_up(Policy(), ASYNC, ASYNC)
    append, codec = cluster.log.append, RecordCodec()

    async def append_after_another(payloads: Sequence[bytes]) -> Offset:
        if isinstance(codec.decode(payloads[-1], b"").body, Group):
            cluster.log.append = append  # type: ignore[method-assign]
            await append([b"of another program"])
        return await append(payloads)

    cluster.log.append = append_after_another  # type: ignore[method-assign]
    offsets = await write_together(cluster.n1)
    assert all(isinstance(offset, int) for offset in offsets) and len(offsets) <= 2
    await cluster.caught_up()
    assert cluster.n2.machine.state == cluster.n1.machine.state


async def test_a_former_version_has_no_groups(cluster: ModesCluster) -> None:
    cluster.version = 2
    await cluster.set_up(ALL, SYNC, SYNC)
    await write_together(cluster.n1)
    assert {it.header.version for it in records(cluster)} == {2}
    assert not any(isinstance(it.body, Group) for it in records(cluster))


async def test_the_version_rises_once_all_members_have_said_that_they_read_it(cluster: ModesCluster) -> None:
    cluster.version = 2
    await cluster.set_up(ALL, SYNC, SYNC, ASYNC)
    cluster.n2.link.stream_limit = 99
    await until(lambda: bool(cluster.n2.link.opened))
    node = cluster.n1.node
    assert list(node._backlog.receivers) == [cluster.n2.node._context.author]  # n3 has said nothing
    node.membership_changes.raise_version(node._backlog.receivers)  # as at each review
    assert node.membership.version == node.membership_changes.latest.version == 2
    cluster.n3.link.stream_limit = 99
    await until(lambda: all(it.node.membership.version == 4 for it in cluster.nodes.values()))
    await write_together(cluster.n1)
    versions = [it.header.version for it in records(cluster)]
    assert versions == sorted(versions) and set(versions) == {2, 4}
    assert any(isinstance(it.body, Group) for it in records(cluster))
    await cluster.take_over(cluster.n2)
    assert isinstance(records(cluster)[-1].body, Claim | Heartbeat | Membership)
    assert records(cluster)[-1].header.version == 4


N1, N2, N3 = (Author(NodeId(f"n{number}"), number) for number in (1, 2, 3))


def members(*authors: Author, version: int = 2) -> Membership:
    address = Address("h", 1)
    return Membership(
        tuple(Member(it.node, Mode.ASYNC, address, address, 0, it.incarnation) for it in authors), version=version
    )


@pytest.mark.parametrize(
    ("membership", "versions", "expected"),
    [
        (members(N1), {}, 4),
        (members(N1, N2), {}, 2),
        (members(N1, N2), {N2: 3}, 3),
        (members(N1, N2), {N2: 4}, 4),
        (members(N1, N2), {N2: 5}, 4),
        (members(N1, N2), {N2._replace(incarnation=9): 3}, 2),
        (members(N1, N2, N3), {N2: 3}, 2),
        (members(N1, N2, N3), {N2: 3, N3: 2}, 2),
        (members(N1, N2, N3), {N2: 3, N3: 3}, 3),
        (members(N1, N2, version=4), {}, 4),
    ],
)
def test_the_version_of_records(membership: Membership, versions: Mapping[Author, int], expected: int) -> None:
    assert with_version(membership, N1, versions) == replace(membership, version=expected)


def pending(body: Single) -> PendingWrite:
    return PendingWrite(body, RecordCodec().encode_body(body), {}, None, 0)


def write(row: bytes) -> Write:
    return Write((Change("kv", row, b"", None, b"sv"),))


A, B, C = map(write, (b"a", b"b", b"c"))
BEAT = Heartbeat()


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ([], []),
        ([A], [A]),
        ([A, B, C], [Group((A, B, C))]),
        ([BEAT, A, B], [BEAT, Group((A, B))]),
        ([A, BEAT, B, C], [A, BEAT, Group((B, C))]),
        ([BEAT, BEAT], [BEAT, BEAT]),
    ],
)
def test_transactions_that_follow_each_other_share_a_record(bodies: list[Single], expected: list[object]) -> None:
    codec, queue = RecordCodec(), [pending(body) for body in bodies]
    for version, grouped in ((2, bodies), (3, expected)):
        made = list(in_records(queue, version))
        assert [it for record in made for it in record.writes] == queue
        assert [codec.encode_body(body) for body in grouped] == [it.encoded for it in made]  # type: ignore[arg-type]
        assert {it.version for it in made} <= {version}


@pytest.mark.parametrize(("changes", "size", "parts"), [(2, 10**6, [2, 2, 1]), (99, 100, [2, 2, 1]), (99, 1, [1] * 5)])
def test_a_record_holds_as_much_as_may_be_applied_at_once(
    monkeypatch: pytest.MonkeyPatch, changes: int, size: int, parts: list[int]
) -> None:
    monkeypatch.setattr(grouping, "RECORD_CHANGES", changes)
    monkeypatch.setattr(grouping, "SLICE_BYTES", size)
    body, encoded = write(b"a"), bytes(50)
    queue = [PendingWrite(body, encoded, {b"a": body.changes[0]}, None, 0) for _ in range(5)]
    made = list(in_records(queue, 3))
    assert [len(record.writes) for record in made] == parts
    assert [it for record in made for it in record.writes] == queue


def test_a_membership_has_its_own_version() -> None:
    made = list(in_records([pending(BEAT), pending(members(N1, version=3))], 2))
    assert [it.version for it in made] == [2, 3]
    assert singles(BEAT) == (BEAT,)
