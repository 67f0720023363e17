"""The change stream with a real schema registry, read by Confluent's own deserializer."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from replicator.errors import ConfigError
from replicator.position import Offset
from replicator.records.types import Record
from replicator.stream.change import changes_of
from replicator.stream.envelope import StreamFormat, key_of, to_fields
from replicator.stream.registry import register_schemas
from replicator.stream.settings import StreamSettings
from tests.keyspace_fixture import writes
from tests.registry_fixture import registry
from tests.test_envelope import HEADER, with_columns

__all__ = ["registry"]

pytestmark = [pytest.mark.registry, pytest.mark.timeout(300)]


def test_confluents_deserializer_reads_the_messages(registry: str) -> None:
    registered = register_schemas(registry, "shop.changes")
    assert register_schemas(registry, "shop.changes") == registered
    form = StreamSettings("t", "l", StreamFormat.AVRO, registry=registered).envelope_format()
    deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    for write in writes("HSET h a 1", "PEXPIREAT h 1900000000000", "DEL h"):
        for change in changes_of("shop", Offset(9), Record(HEADER, write, b"")):
            key, value = (
                deserialize(encoded, SerializationContext("shop.changes", field))
                for encoded, field in (
                    (form.encode_key(key_of(change, with_field=True)), MessageField.KEY),
                    (form.encode(change), MessageField.VALUE),
                )
            )
            assert value == with_columns(to_fields(change))
            assert (key["table"], key["row"]) == ("kv", "h")
            assert form.decode(form.encode(change)) == change


def test_an_incompatible_schema_is_refused(registry: str) -> None:
    other = {"type": "record", "name": "Other", "fields": [{"name": "x", "type": "int"}]}
    send(registry, "POST", "/subjects/taken.changes-value/versions", {"schema": json.dumps(other)})
    send(registry, "PUT", "/config/taken.changes-value", {"compatibility": "BACKWARD"})
    with pytest.raises(ConfigError, match=r"refuses the schema of subject taken\.changes-value.*ncompatible"):
        register_schemas(registry, "taken.changes")


def test_a_registry_that_does_not_answer() -> None:
    """The login is not shown."""
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:1/v1 does not answer"):
        register_schemas("http://user:secret@127.0.0.1:1/v1", "shop.changes")


def send(registry: str, method: str, path: str, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{registry}{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=10):
        pass
