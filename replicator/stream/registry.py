"""Registers the schemas of a change stream at a schema registry with the API of Confluent's."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from replicator.errors import ConfigError
from replicator.records.codec import load_schema
from replicator.stream.settings import Registry


def without_login(url: str) -> str:
    """The URL as it may be shown."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def register_schemas(url: str, topic: str) -> Registry:
    """Under the subjects `<topic>-key` and `<topic>-value`. It blocks.

    Raises `ConfigError`: the registry does not answer, or has another, incompatible schema there.
    """
    try:
        from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
        from confluent_kafka.schema_registry.error import SchemaRegistryError
    except ImportError as error:
        raise ConfigError(
            f"a schema registry needs the extra `registry` ({error.name} is missing): "
            "pip install 'replicator[registry]' on the nodes"
        ) from error

    shown = without_login(url)

    def register(subject: str, schema: str) -> Any:
        try:
            return client.register_schema(subject, Schema(json.dumps(load_schema(schema)), "AVRO"))
        except SchemaRegistryError as error:
            raise ConfigError(
                f"the schema registry at {shown} refuses the schema of subject {subject}: {error.error_message}. "
                "Delete the subject, or change its compatibility there"
            ) from error
        except Exception as error:
            why = str(error).replace(url, shown)
            raise ConfigError(f"the schema registry at {shown} does not answer: {why}") from error

    client = SchemaRegistryClient({"url": url, "timeout": 5, "max.retries": 0})
    return Registry(shown, register(f"{topic}-key", "change_key.v1.avsc"), register(f"{topic}-value", "change.v1.avsc"))
