"""What a doctor looks at: whether Kafka and the log's topic are set up so that nothing acknowledged can be lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]

from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.kafka.admin import Admin
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import wal_topic

NOT_READABLE = "unknown"


@dataclass(frozen=True)
class Finding:
    name: str
    value: str
    expected: str
    ok: bool
    why: str  # it matters, in one sentence


EXPECTED: Mapping[str, tuple[str, str]] = {
    "cleanup.policy": ("delete", "Compaction removes records, and with them the order that every replica replays."),
    "retention.ms": ("-1", "Kafka would delete records by age, also those that no snapshot holds yet."),
    "retention.bytes": ("-1", "Kafka would delete records by size, also those that no snapshot holds yet."),
    "unclean.leader.election.enable": (
        "false",
        "A replica that lags would become leader, and acknowledged writes vanish.",
    ),
    "message.timestamp.type": (
        "LogAppendTime",
        "With CreateTime Kafka refuses the writes of a node whose clock is ahead (message.timestamp.after.max.ms).",
    ),
}


def check_topic(bootstrap: str, cluster: str, *, security: KafkaSecurity | None = None) -> list[Finding]:
    """Findings about the brokers and the topic `<cluster>.wal`, in reading order. Raises `BrokerUnavailable`."""
    admin = Admin(bootstrap, security)
    topic = wal_topic(cluster)
    nodes = admin.result(admin.client.describe_cluster(request_timeout=ADMIN_TIMEOUT_S)).nodes
    findings = [
        _finding(
            "brokers", str(len(nodes)), "3 or more", len(nodes) >= 3, "With fewer, one lost disk can lose the log."
        ),
        _auto_create(_settings(admin, ResourceType.BROKER, str(nodes[0].id))),
    ]
    description = admin.describe_or_none(topic)
    exists = "yes" if description is not None else "no"
    findings.append(
        _finding(f"topic {topic}", exists, "yes", exists == "yes", "It is the log: without it nothing works.")
    )
    if description is None:
        return findings
    return findings + _topic_findings(description.partitions, _settings(admin, ResourceType.TOPIC, topic))


def _topic_findings(partitions: Any, settings: Mapping[str, str]) -> list[Finding]:
    count, replicas = len(partitions), min((len(partition.replicas) for partition in partitions), default=0)
    insync = min((len(partition.isr) for partition in partitions), default=0)
    fixed = [
        _finding(name, _value(settings, name), expected, _value(settings, name) == expected, why)
        for name, (expected, why) in EXPECTED.items()
    ]
    largest = _value(settings, "max.message.bytes")
    return [
        _finding("partitions", str(count), "1", count == 1, "Only within one partition does Kafka keep an order."),
        _finding(
            "replicas", str(replicas), "3 or more", replicas >= 3, "An acknowledged write lives on this many disks."
        ),
        _finding(
            "replicas in sync",
            str(insync),
            str(replicas),
            insync == replicas,
            "The others would miss the latest writes.",
        ),
        _min_insync(_value(settings, "min.insync.replicas"), replicas),
        *fixed,
        _finding(
            "max.message.bytes",
            largest,
            f"{MAX_MESSAGE_BYTES} or more",
            largest.isdigit() and int(largest) >= MAX_MESSAGE_BYTES,
            "A group of writes larger than this is refused.",
        ),
    ]


def _min_insync(value: str, replicas: int) -> Finding:
    """2 of 3: an acknowledged write outlives one broker. With all of them, one lost broker would stop the writes."""
    expected = "1" if replicas < 3 else f"2 to {replicas - 1}"
    number = int(value) if value.isdigit() else 0
    ok = number == 1 if replicas < 3 else 2 <= number < replicas
    why = "With 1 an acknowledged write may be on one disk only; with all replicas, one lost broker stops the writes."
    return _finding("min.insync.replicas", value, expected, ok, why)


def _auto_create(settings: Mapping[str, str]) -> Finding:
    value = _value(settings, "auto.create.topics.enable")
    why = "A deleted log would be made anew, empty and with the default retention, by whoever asks for it first."
    return _finding("auto.create.topics.enable", value, "false", value == "false", why)


def _settings(admin: Admin, kind: ResourceType, name: str) -> dict[str, str]:
    """Empty if this login may not read them: each finding then says so."""
    try:
        [future] = admin.client.describe_configs([ConfigResource(kind, name)], request_timeout=ADMIN_TIMEOUT_S).values()
        return {entry.name: entry.value for entry in admin.result(future).values() if entry.value is not None}
    except KafkaException:
        return {}


def _value(settings: Mapping[str, str], name: str) -> str:
    return settings.get(name, NOT_READABLE)


def _finding(name: str, value: str, expected: str, ok: bool, why: str) -> Finding:
    return Finding(name=name, value=value, expected=expected, ok=ok, why=why)
