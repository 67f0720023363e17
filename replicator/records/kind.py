"""The kind of an encoded record. It is the key of its entry in the topic, for people who read it with Kafka's tools."""

from __future__ import annotations

from replicator.records import fast
from replicator.records.codec import BARRIER, load_schema
from replicator.records.types import VERSION

[_union] = [field["type"] for field in load_schema(f"record.v{VERSION}.avsc")["fields"] if field["name"] == "body"]
_BODIES = [branch["name"].lower().encode() for branch in _union]

_headers = fast.HeaderReader()  # a cache of prefixes


def kind_of(payload: bytes) -> bytes | None:
    """In lower case; `barrier` for an empty one; None if it is not a record."""
    if payload == BARRIER:
        return b"barrier"
    try:
        _, body_at = _headers.read(payload)
        branch, _ = fast.decode_long(payload, body_at)
    except (ValueError, IndexError):
        return None
    return _BODIES[branch] if 0 <= branch < len(_BODIES) else None
