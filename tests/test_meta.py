"""The metadata of a store, as it is written with each batch."""

from __future__ import annotations

import json

import pytest

from replicator import __version__
from replicator.address import Address
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.types import Member, Membership, Mode, Policy, WriteMode
from replicator.store.meta import Meta, decode_meta

N1, N2 = Author(NodeId("n1"), 7), Author(NodeId("n2"), 8)
FIRST = LogState(b"t" * 16, Epoch(1), N1, Seq(3), b"\x00" * 8, Offset(4), Offset(3))
NEXT = FIRST._replace(seq=Seq(4), chain=b"\xff" * 8, offset=Offset(6), leader_offset=Offset(6))
CLAIMED = NEXT._replace(epoch=Epoch(2), leader=N2)
EMPTY = Membership()
PAIR = Membership((Member(NodeId("n1"), Mode.SYNC, Address("::1", 1), Address("h", 2), 3, 7),), Policy(WriteMode.SYNC))


@pytest.mark.parametrize("state", [FIRST, NEXT, CLAIMED, LogState()], ids=["first", "next", "claimed", "empty"])
@pytest.mark.parametrize("membership", [EMPTY, PAIR], ids=["nobody", "one"])
def test_it_is_read_as_it_was_written(state: LogState, membership: Membership) -> None:
    start = Meta("c", "topic", FIRST, 5, 6, {"kv": 7}, EMPTY).after(FIRST, 5, 6, {"kv": 7}, EMPTY)
    assert decode_meta(start.encode()) == start
    after = start.after(state, 2**128 - 1, 9, {"kv": 1, 'a "b" é': 2}, membership)
    assert after == Meta("c", "topic", state, 2**128 - 1, 9, {"kv": 1, 'a "b" é': 2}, membership)
    for meta in (after, after.after(state, 0, 0, {}, membership)):
        assert decode_meta(meta.encode()) == meta


def test_the_encoding_is_json_of_format_1() -> None:
    fields = json.loads(Meta("c", "topic", NEXT, 10, 6, {"kv": 7}, PAIR).encode())
    assert fields == {
        "format": 1,
        "written_by": __version__,
        "cluster": "c",
        "topic_id": "topic",
        "timeline": "74" * 16,
        "epoch": 1,
        "leader": ["n1", 7],
        "seq": 4,
        "chain": "ff" * 8,
        "offset": 6,
        "leader_offset": 6,
        "digest": "0" * 31 + "a",
        "entries": 6,
        "rows": {"kv": 7},
        "members": [["n1", "sync", "[::1]:1", "h:2", 3, 7]],
        "policy": ["sync", "all", 0, []],
        "version": 4,
    }
