"""The changes of a record, and their messages in both formats."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRequest
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.codec import load_schema
from replicator.records.types import Body, Group, Header, Heartbeat, Record, Write
from replicator.records.types import Change as Entry
from replicator.store.rows import Image
from replicator.stream.avro_envelope import AvroFormat
from replicator.stream.change import Change, Op, Position, Source, TransactionBlock, changes_of
from replicator.stream.envelope import NotAChange, key_of, needs_tombstone, to_fields
from replicator.stream.json_envelope import JsonFormat
from tests.keyspace_fixture import writes

TIMELINE = bytes(range(16))
HEADER = Header(3, TIMELINE, Epoch(2), Author(NodeId("n1"), 7), Seq(40), 1_700_000_000_123_456, bytes(8))
FORMATS = [JsonFormat(), AvroFormat(), AvroFormat(b"\0\0\0\0\1", b"\0\0\0\0\2")]


def changes(body: Body) -> list[Change]:
    return list(changes_of("shop", Offset(9), Record(HEADER, body, b"")))


def one(*commands: str) -> list[tuple[Op, bytes, bytes | None, Image | None, Image | None]]:
    """What the last of some writes publishes."""
    return [(it.op, it.row, it.field, it.before, it.after) for it in changes(writes(*commands)[-1])]


def string(value: bytes, expires_at_ms: int | None = None) -> Image:
    return Image("string", value, expires_at_ms)


def field(value: bytes) -> Image:
    return Image("field", value)


HASH = Image("hash", None)


class TestChanges:
    def test_a_string(self) -> None:
        assert one("SET k v") == [(Op.CREATE, b"k", None, None, string(b"v"))]
        assert one("SET k v", "SET k w") == [(Op.UPDATE, b"k", None, string(b"v"), string(b"w"))]
        assert one("SET k v", "DEL k") == [(Op.DELETE, b"k", None, string(b"v"), None)]

    def test_an_expiry(self) -> None:
        assert one("SET k v", "PEXPIREAT k 1900000000000") == [
            (Op.UPDATE, b"k", None, string(b"v"), string(b"v", 1_900_000_000_000))
        ]

    def test_the_first_field_creates_its_hash(self) -> None:
        assert one("HSET h a 1") == [
            (Op.CREATE, b"h", b"a", None, field(b"1")),
            (Op.CREATE, b"h", None, None, HASH),
        ]

    def test_a_new_field_does_not_change_the_hash_itself(self) -> None:
        assert one("HSET h a 1", "HSET h b 2") == [(Op.CREATE, b"h", b"b", None, field(b"2"))]
        assert one("HSET h a 1", "HSET h a 3") == [(Op.UPDATE, b"h", b"a", field(b"1"), field(b"3"))]

    def test_an_expiry_of_a_hash(self) -> None:
        expiring = Image("hash", None, 1_900_000_000_000)
        commands = ["HSET h a 1", "PEXPIREAT h 1900000000000"]
        assert one(*commands) == [(Op.UPDATE, b"h", None, HASH, expiring)]
        assert one(*commands, "HSET h b 2") == [(Op.CREATE, b"h", b"b", None, field(b"2"))]
        assert one(*commands, "PERSIST h") == [(Op.UPDATE, b"h", None, expiring, HASH)]

    def test_the_last_field_deletes_its_hash(self) -> None:
        assert one("HSET h a 1", "HDEL h a") == [
            (Op.DELETE, b"h", b"a", field(b"1"), None),
            (Op.DELETE, b"h", None, HASH, None),
        ]

    def test_a_string_replaces_a_hash(self) -> None:
        assert one("HSET h a 1", "SET h v") == [
            (Op.DELETE, b"h", b"a", field(b"1"), None),
            (Op.UPDATE, b"h", None, HASH, string(b"v")),
        ]

    def test_other_records_and_tables_publish_nothing(self) -> None:
        assert changes(Heartbeat()) == []
        assert changes(Write((Entry("once", b"id", b"", None, b"a"),))) == []

    def test_positions_and_blocks_of_a_group(self) -> None:
        ids = Entry("once", b"id", b"", None, b"a")
        entries = [Entry("kv", row, b"", None, b"sv") for row in (b"a", b"b", b"c")]
        found = changes(Group((Write((entries[0], ids, entries[1])), Write((ids,)), Write((entries[2],)))))
        assert [(it.row, str(it.position), it.source.seq, it.transaction, it.ends_transaction) for it in found] == [
            (b"a", "9-0", 40, TransactionBlock(1, 2, 1), False),
            (b"b", "9-2", 40, TransactionBlock(2, 2, 2), True),
            (b"c", "9-4", 42, TransactionBlock(1, 1, 1), True),
        ]
        assert [it.transaction_id for it in found] == [f"{TIMELINE.hex()}:{seq}" for seq in (40, 40, 42)]


class TestPosition:
    def test_text(self) -> None:
        assert Position.parse("12-3") == (12, 3)
        assert Position.parse("12") == (12, 0)

    @pytest.mark.parametrize("text", ["", "-", "12-", "-3", "x", "1-2-3", "1.5", "٣"])
    def test_invalid(self, text: str) -> None:
        with pytest.raises(BadRequest, match="expected OFFSET"):
            Position.parse(text)


sql_values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=9),
    st.binary(max_size=9),
)
images = st.one_of(
    st.builds(Image, st.just("string"), st.binary(max_size=30), st.none() | st.integers(0, 2**47), st.none()),
    st.builds(Image, st.just("string"), st.text(max_size=30).map(str.encode), st.none(), st.none()),
    st.builds(Image, st.just("hash"), st.none(), st.none() | st.integers(0, 2**47), st.none()),
    st.builds(
        Image, st.just("row"), st.none(), st.none(), st.dictionaries(st.text(max_size=5), sql_values, max_size=4)
    ),
)
sources = st.builds(
    Source,
    st.just("shop"),
    st.just(TIMELINE.hex()),
    st.integers(1, 2**40).map(Epoch),
    st.integers(0, 2**60).map(Offset),
    st.integers(1, 2**60).map(Seq),
    st.integers(0, 4999),
    st.integers(0, 2**52),
)
any_change = st.builds(
    Change,
    st.sampled_from(Op),
    st.just("kv"),
    st.binary(max_size=20) | st.text(max_size=20).map(str.encode),
    st.none() | st.binary(max_size=20),
    images,
    st.none() | images,
    sources,
    st.none() | st.builds(TransactionBlock, st.integers(1, 9), st.integers(9, 99), st.integers(1, 9)),
    st.integers(0, 2**47),
)


@pytest.mark.parametrize("form", FORMATS, ids=["json", "avro", "registry"])
@given(change=any_change)
def test_what_was_encoded_is_decoded(form: JsonFormat | AvroFormat, change: Change) -> None:
    assert form.decode(form.encode(change)) == change


@given(change=any_change, with_field=st.booleans())
def test_json_and_avro_have_the_same_fields(change: Change, with_field: bool) -> None:
    """The text that `JsonFormat` builds is what `json.dumps` would make of the fields of Avro."""
    key = key_of(change, with_field=with_field)
    in_json, in_avro = JsonFormat(), AvroFormat()
    fields = read_avro("change.v1.avsc", in_avro.encode(change))
    assert with_columns(json.loads(in_json.encode(change))) == fields == with_columns(to_fields(change))
    key_fields = json.loads(in_json.encode_key(key))
    defaults = {"field": None, "field_base64": False}
    assert {**defaults, **key_fields} == read_avro("change_key.v1.avsc", in_avro.encode_key(key))
    assert ("field" in key_fields) is with_field


@given(change=any_change, with_field=st.booleans())
def test_the_bytes_are_those_of_fastavro(change: Change, with_field: bool) -> None:
    key = key_of(change, with_field=with_field)
    key_fields = json.loads(JsonFormat().encode_key(key))
    assert AvroFormat().encode_key(key) == write_avro("change_key.v1.avsc", key_fields)
    assert AvroFormat().encode(change) == write_avro("change.v1.avsc", to_fields(change))


def with_columns(envelope: Any) -> Any:
    """JSON has the columns of SQL tables only."""
    for name in ("before", "after"):
        if envelope[name] is not None:
            envelope[name] = {"columns": None, "columns_base64": [], **envelope[name]}
    return envelope


def write_avro(schema: str, fields: Any) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, load_schema(schema), fields)
    return out.getvalue()


def read_avro(schema: str, encoded: bytes) -> object:
    stream = BytesIO(encoded)
    fields = fastavro.schemaless_reader(stream, load_schema(schema), None)
    assert not stream.read(1)
    return fields


@pytest.mark.parametrize("form", FORMATS, ids=["json", "avro", "registry"])
@given(value=st.binary(max_size=50) | st.sampled_from([b"null", b"[]", b"{}", b'{"before":1}']))
def test_what_is_not_a_change_is_refused(form: JsonFormat | AvroFormat, value: bytes) -> None:
    with pytest.raises(NotAChange):
        form.decode(value)


def test_text_is_readable_and_other_bytes_are_base64() -> None:
    [change] = changes(Write((Entry("kv", "schlüssel".encode(), b"", None, b"s\xff\x00"),)))
    fields = json.loads(JsonFormat().encode(change))["after"]
    assert (fields["row"], fields["row_base64"]) == ("schlüssel", False)
    assert (fields["value"], fields["value_base64"]) == ("/wA=", True)


def test_a_tombstone_follows_once_nothing_is_left_of_the_key() -> None:
    deleted_field, deleted_row = changes(writes("HSET h a 1", "HDEL h a")[-1])
    for change, with_field, expected in [
        (deleted_field, False, False),
        (deleted_field, True, True),
        (deleted_row, False, True),
        (deleted_row, True, True),
    ]:
        assert needs_tombstone(change, key_of(change, with_field=with_field)) is expected


def test_keys_of_a_compacted_topic_tell_the_fields_of_a_row_apart() -> None:
    created = changes(writes("HSET h a 1 b 2")[-1])
    form = JsonFormat()
    assert len({form.encode_key(key_of(it, with_field=False)) for it in created}) == 1
    assert len({form.encode_key(key_of(it, with_field=True)) for it in created}) == 3


def test_the_error_does_not_repeat_the_message() -> None:
    for form, value in ((JsonFormat(), b"\x00\x02" + b"\xd8" * 5000), (AvroFormat(), b"\x02" * 5000)):
        with pytest.raises(NotAChange) as refused:
            form.decode(value)
        assert len(str(refused.value)) < 200
