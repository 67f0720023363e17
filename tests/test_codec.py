"""Encoded records: golden bytes, the fast path compared with fastavro, and schema evolution."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.address import UNKNOWN, Address
from replicator.errors import LogDamage, UpgradeNeeded
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records import bodies, fast
from replicator.records.chain import GENESIS, link
from replicator.records.codec import BARRIER, AckCodec, NotARecord, RecordCodec, load_schema
from replicator.records.kind import kind_of
from replicator.records.tape import Call
from replicator.records.types import (
    Ack,
    Body,
    Change,
    Checkpoint,
    Claim,
    Command,
    Group,
    Header,
    Heartbeat,
    Member,
    Membership,
    Mode,
    Policy,
    Reason,
    Record,
    Release,
    Suspend,
    Timing,
    WaitFor,
    Write,
    WriteMode,
    singles,
)

TIMELINE = bytes(range(16))
HEADER = Header(4, TIMELINE, Epoch(3), Author(NodeId("n1"), 7), Seq(100), 1_700_000_000_000_000, b"chain678")
PREFIX = "08000102030405060708090a0b0c0d0e0f06046e310ec8018080f281838985066368" + "61696e363738"

GOLDEN: list[tuple[Body, str]] = [
    (
        Write((Change("kv", b"k", b"", None, b"sv"), Change("kv", b"h", b"fx", b"f1", None))),
        "0004046b76026b0000020473760" + "46b7602680466780204663100" + "00",
    ),
    (Claim(Author(NodeId("n2"), 9), Epoch(4), Offset(41), Reason.ELECTION), "02046e3212085202"),
    (Heartbeat(), "04"),
    (Checkpoint(258, 5), "06" + "00" * 14 + "0102" + "0a"),
    (
        Membership(
            (Member(NodeId("n1"), Mode.SYNC, Address("h", 1), Address("h", 2), 1, 9),),
            Policy(WriteMode.SYNC, WaitFor.QUORUM, 1, (NodeId("n1"),)),
        ),
        "0802046e310406683a3106683a32021200" + "02020202046e310000" + "08",
    ),
    (
        Command("sqlite:3.50.0", ((b"INCR", b"k"),), (Call("random", 5), Call("sin", 0.5), Call("x", None)), 9, 1, 2),
        "0e1a" + b"sqlite:3.50.0".hex() + "020408494e4352026b0000"
        "06"
        + "0c72616e646f6d"
        + "020a"
        + "0673696e"
        + "04000000000000e03f"
        + "0278"
        + "00"
        + "00"
        + "12"
        + "02"
        + "04",
    ),
    (Suspend((b"a", b"b")), "0a040261026200"),
    (Release(Seq(12)), "0c18"),
    (Timing(250, 600, 750, 150, 50, 500, 1000), "10f403b009dc0bac0264e807d00f"),
    (
        Group(
            (Write((Change("kv", b"k", b"", None, b"sv"),)), Write(()), Write((Change("kv", b"k", b"", b"sv", None),)))
        ),
        "1206" + "02046b76026b000002047376" + "00" + "00" + "02046b76026b000204737600" + "00" + "00",
    ),
]


@pytest.fixture
def codec() -> RecordCodec:
    return RecordCodec()


@pytest.mark.parametrize(
    ("body", "golden"), GOLDEN, ids=lambda it: type(it).__name__ if not isinstance(it, str) else ""
)
def test_golden_bytes(codec: RecordCodec, body: Body, golden: str) -> None:
    encoded = codec.encode_body(body)
    assert encoded.hex() == golden
    payload = codec.encode(HEADER, encoded)
    assert payload.hex() == PREFIX + golden
    record = codec.decode(payload, TIMELINE)
    assert record.header == HEADER
    assert record.body == body
    assert record.encoded_body == encoded


optional = st.none() | st.binary(max_size=300)
changes = st.builds(Change, st.sampled_from(["kv", "tö", "x" * 80]), st.binary(), st.binary(), optional, optional)
longs = st.integers(-(2**63), 2**63 - 1)


def by_fastavro(header: Header, body: Body) -> bytes:
    version, timeline, epoch, author, seq, timestamp_us, chain = header
    out = BytesIO()
    fields = {
        "version": version,
        "timeline": timeline,
        "epoch": epoch,
        "node": author.node,
        "incarnation": author.incarnation,
        "seq": seq,
        "timestamp_us": timestamp_us,
        "chain": chain,
    }
    schema = fastavro.parse_schema(load_schema(f"record.v{version}.avsc"))
    fastavro.schemaless_writer(out, schema, {"header": fields, "body": bodies.to_avro(body)})
    return out.getvalue()


@given(st.sampled_from((1, 2, 3)), st.lists(changes, max_size=5), longs, longs, longs, st.text(max_size=20))
def test_the_fast_path_is_identical_to_fastavro(
    version: int, rows: list[Change], epoch: int, seq: int, time: int, node: str
) -> None:
    header = Header(version, TIMELINE, Epoch(epoch), Author(NodeId(node), seq), Seq(seq), time, GENESIS)
    write = Write(tuple(rows))
    payload = by_fastavro(header, write)
    assert fast.encode_header(header) + fast.encode_write(write) == payload
    record = RecordCodec().decode(payload, TIMELINE)
    assert (record.header, record.body) == (header, write)


@given(st.lists(st.builds(Write, st.lists(changes, max_size=3).map(tuple)), min_size=1, max_size=5))
def test_a_group_is_encoded_as_by_fastavro(writes: list[Write]) -> None:
    group, codec = Group(tuple(writes)), RecordCodec()
    payload = by_fastavro(HEADER, group)
    assert fast.encode_header(HEADER) + fast.encode_group([fast.encode_write(write) for write in writes]) == payload
    assert codec.encode(HEADER, codec.encode_body(group)) == payload
    record = codec.decode(payload, TIMELINE)
    assert (record.header, record.body) == (HEADER, group)
    assert record.last_seq == HEADER.seq + len(writes) - 1
    assert singles(record.body) == group.writes


results = st.one_of(st.none(), longs, st.floats(allow_nan=False), st.text(max_size=20), st.binary(max_size=80))
commands = st.builds(
    Command,
    st.text(max_size=20),
    st.lists(st.lists(st.binary(max_size=80), max_size=5).map(tuple), max_size=3).map(tuple),
    st.lists(st.builds(Call, st.text(max_size=20), results), max_size=5).map(tuple),
    longs,
    st.integers(0, 2**31 - 1),
    longs,
)


@given(commands)
def test_a_command_is_encoded_as_by_fastavro(command: Command) -> None:
    payload, codec = by_fastavro(HEADER, command), RecordCodec()
    assert codec.encode(HEADER, codec.encode_body(command)) == payload
    assert codec.decode(payload, TIMELINE).body == command


@given(commands, st.data())
def test_a_damaged_command_is_noticed_or_another_one(command: Command, data: st.DataObject) -> None:
    codec = RecordCodec()
    body = bytearray(codec.encode_body(command))
    body[data.draw(st.integers(1, len(body) - 1))] = data.draw(st.integers(0, 255))
    with suppress(LogDamage):
        codec.decode(codec.encode(HEADER, bytes(body)), TIMELINE)
    with pytest.raises(LogDamage):
        codec.decode(codec.encode(HEADER, codec.encode_body(command)[:-1]), TIMELINE)


@pytest.mark.parametrize("body", ["1200", "1202", "120200", "1202000000"], ids=["empty", "cut", "no end", "trailing"])
def test_an_invalid_group_is_log_damage(codec: RecordCodec, body: str) -> None:
    with pytest.raises(LogDamage):
        codec.decode(bytes.fromhex(PREFIX + body), TIMELINE)


def test_a_group_in_blocks_is_read(codec: RecordCodec) -> None:
    """Avro allows a writer to split an array into blocks, with their sizes in bytes if the count is negative."""
    write = fast.encode_write(Write((Change("kv", b"k", b"", None, b"sv"),)))[1:].hex()
    blocks = f"1201{len(write) // 2 * 2:02x}{write}02{write}00"
    assert codec.decode(bytes.fromhex(PREFIX + blocks), TIMELINE).last_seq == HEADER.seq + 1


@pytest.mark.parametrize("version", [2, 3])
def test_a_membership_is_written_with_the_schema_of_its_version(codec: RecordCodec, version: int) -> None:
    membership = Membership((Member(NodeId("n1"), Mode.SYNC, Address("h", 1), Address("h", 2), 1, 9),), version=version)
    header = HEADER._replace(version=version)
    payload = codec.encode(header, codec.encode_body(membership))
    assert payload == by_fastavro(header, membership)
    assert codec.decode(payload, TIMELINE) == Record(header, membership, codec.encode_body(membership))


def test_addresses_are_text_in_a_record() -> None:
    """What nodes of other versions wrote does not make a record unreadable."""
    member = Member(NodeId("n1"), Mode.SYNC, Address("::1", 7001), Address("::1", 8001), 1)
    name, fields = bodies.to_avro(Membership((member,)))
    assert [fields["members"][0][key] for key in ("resp", "http")] == ["[::1]:7001", "[::1]:8001"]
    fields["members"][0].update(resp="::1:7001", http="")
    assert bodies.from_avro(name, fields) == Membership((replace(member, http=UNKNOWN),))


def test_a_membership_of_version_1_has_no_incarnations(codec: RecordCodec) -> None:
    members = "0802046e310406683a3106683a320200" + "02020202046e3100"
    membership = codec.decode(bytes.fromhex("02" + PREFIX[2:] + members), TIMELINE).body
    assert isinstance(membership, Membership)
    assert membership.members == (Member(NodeId("n1"), Mode.SYNC, Address("h", 1), Address("h", 2), 1, incarnation=0),)


def test_a_field_added_later_takes_its_default_from_old_records() -> None:
    old = load_schema("record.v4.avsc")
    new = copy.deepcopy(old)
    fields: list[Any] = new["fields"][1]["type"][3]["fields"]
    fields.append({"name": "note", "type": "string", "default": "none"})
    record = RecordCodec({4: old}, reader=new).decode(by_fastavro(HEADER, Checkpoint(1, 2)), TIMELINE)
    assert record.body == Checkpoint(1, 2)
    payload = BytesIO()
    fastavro.schemaless_writer(payload, fastavro.parse_schema(old), _avro(HEADER, Checkpoint(1, 2)))
    payload.seek(0)
    read: Any = fastavro.schemaless_reader(payload, fastavro.parse_schema(old), fastavro.parse_schema(new))
    assert read["body"]["note"] == "none"


def test_a_record_with_an_added_field_is_read_by_its_own_schema() -> None:
    old = load_schema("record.v2.avsc")
    new = copy.deepcopy(old)
    new["fields"][1]["type"][3]["fields"].append({"name": "note", "type": "string", "default": "none"})
    payload = BytesIO()
    avro = _avro(HEADER, Checkpoint(1, 2))
    avro["body"][1]["note"] = "a word"
    fastavro.schemaless_writer(payload, fastavro.parse_schema(new), avro)
    record = RecordCodec({2: old, 4: new}, reader=old).decode(payload.getvalue(), TIMELINE)
    assert record.header.version == 4
    assert record.body == Checkpoint(1, 2)


def _avro(header: Header, body: Body) -> dict[str, Any]:
    fields = header._asdict()
    author = fields.pop("author")
    return {"header": {**fields, "node": author.node, "incarnation": author.incarnation}, "body": bodies.to_avro(body)}


def test_a_record_of_a_newer_version_asks_for_an_upgrade(codec: RecordCodec) -> None:
    payload = codec.encode(HEADER._replace(version=5), codec.encode_body(Heartbeat()))
    expected = r"a record has format 5, but this program \(replicator .*\) reads up to 4: install a newer replicator on"
    with pytest.raises(UpgradeNeeded, match=expected):
        codec.decode(payload, TIMELINE)


@pytest.mark.parametrize("payload", [b"", b"hello", b'{"json": 1}', b"\xff" * 40, b"\x04" + bytes(100)])
def test_foreign_bytes_are_not_a_record(codec: RecordCodec, payload: bytes) -> None:
    with pytest.raises(NotARecord):
        codec.decode(payload, TIMELINE)


@given(st.binary(max_size=200))
def test_garbage_raises_only_the_documented_errors(garbage: bytes) -> None:
    with pytest.raises((NotARecord, LogDamage, UpgradeNeeded)):
        RecordCodec().decode(garbage, b"")


@given(st.integers(0, 200))
def test_a_truncated_record_is_log_damage(cut: int) -> None:
    codec = RecordCodec()
    payload = codec.encode(HEADER, codec.encode_body(Write((Change("kv", b"key", b"", b"sold", b"snew"),))))
    cut = min(cut, len(payload) - 1)
    with pytest.raises((LogDamage, NotARecord)) as caught:
        codec.decode(payload[:cut], TIMELINE)
    assert (caught.type is LogDamage) == (cut >= 17)


def test_the_chain_depends_on_all_earlier_records() -> None:
    one, other = link(GENESIS, b"a"), link(GENESIS, b"b")
    assert len(one) == 8
    assert link(one, b"c") != link(other, b"c")


def test_an_encoded_ack_is_decoded_to_the_same_ack() -> None:
    ack = Ack(TIMELINE, Author(NodeId("n2"), 5), Offset(10), Seq(9), Epoch(1), 123)
    codec = AckCodec()
    assert codec.decode(codec.encode(ack)) == ack
    with pytest.raises(NotARecord):
        codec.decode(b"junk")


@pytest.mark.parametrize(("body", "golden"), GOLDEN, ids=lambda it: type(it).__name__)
def test_the_kind_of_a_record_is_the_name_of_its_body(body: Body, golden: str) -> None:
    assert kind_of(bytes.fromhex(PREFIX + golden)) == type(body).__name__.lower().encode()


def test_what_is_not_a_record_has_no_kind() -> None:
    assert kind_of(BARRIER) == b"barrier"
    for payload in (b"not a record", bytes.fromhex(PREFIX), bytes.fromhex(PREFIX + "7e")):
        assert kind_of(payload) is None
