"""Checks whether the settings of the brokers and of the log's topic keep acknowledged writes from being lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka.admin import ResourceType  # type: ignore[attr-defined]

from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.kafka.admin import KafkaAdmin
from replicator.log.kafka.node_offsets import headroom
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import wal_topic
from replicator.position import NodeId

NOT_READABLE = "unknown: this Kafka user needs the ACL operation DescribeConfigs"


@dataclass(frozen=True)
class CheckResult:
    name: str
    value: str
    expected: str
    ok: bool
    why: str  # the setting matters; one sentence


EXPECTED: Mapping[str, tuple[str, str]] = {
    "cleanup.policy": ("delete", "Compaction removes records, and with them the order that every replica replays."),
    "retention.ms": ("-1", "Kafka would delete records by age, also those that no snapshot contains yet."),
    "retention.bytes": ("-1", "Kafka would delete records by size, also those that no snapshot contains yet."),
    "unclean.leader.election.enable": (
        "false",
        "A partition replica that lags could become leader, and acknowledged writes would be lost.",
    ),
    "message.timestamp.type": (
        "LogAppendTime",
        "With CreateTime, Kafka refuses writes of a node whose clock is ahead (message.timestamp.after.max.ms).",
    ),
}


def check_topic(bootstrap: str, cluster: str, *, security: KafkaSecurity | None = None) -> list[CheckResult]:
    """Check the brokers and the topic `<cluster>.wal`; the results are in reading order. Raises `BrokerUnavailable`."""
    admin = KafkaAdmin(bootstrap, security)
    topic = wal_topic(cluster)
    nodes = admin.brokers()
    results = [
        _result(
            "brokers", str(len(nodes)), "3 or more", len(nodes) >= 3, "With fewer, one lost disk can lose the log."
        ),
        _auto_create(admin.settings(ResourceType.BROKER, str(nodes[0]))),
    ]
    description = admin.describe_or_none(topic)
    exists = "yes" if description is not None else "no"
    results.append(_result(f"topic {topic}", exists, "yes", exists == "yes", "It is the log of the cluster."))
    if description is None:
        return results
    return results + _topic_results(description.partitions, admin.settings(ResourceType.TOPIC, topic))


def check_headroom(
    bootstrap: str, cluster: str, nodes: Iterable[NodeId], *, security: KafkaSecurity | None = None
) -> list[CheckResult]:
    """Whether the slowest node still finds what it needs in the log. Raises `BrokerUnavailable`."""
    found = headroom(bootstrap, cluster, nodes, security=security)
    if found is None:
        return []
    value = f"{found.node}: {found.records} records, {found.seconds:.0f} s"
    why = "A replica that needs a record below the start of the log has to be initialised from a snapshot."
    return [_result("slowest replica above the start of the log", value, "0 or more", found.records >= 0, why)]


def _topic_results(partitions: Any, settings: Mapping[str, str]) -> list[CheckResult]:
    count, replicas = len(partitions), min((len(partition.replicas) for partition in partitions), default=0)
    insync = min((len(partition.isr) for partition in partitions), default=0)
    fixed = [
        _result(name, _value(settings, name), expected, _value(settings, name) == expected, why)
        for name, (expected, why) in EXPECTED.items()
    ]
    largest = _value(settings, "max.message.bytes")
    return [
        _result("partitions", str(count), "1", count == 1, "Kafka keeps records in order only within one partition."),
        _result(
            "replicas", str(replicas), "3 or more", replicas >= 3, "An acknowledged write is stored on this many disks."
        ),
        _result(
            "replicas in sync",
            str(insync),
            str(replicas),
            insync == replicas,
            "The other replicas may lack the latest writes.",
        ),
        _min_insync(_value(settings, "min.insync.replicas"), replicas),
        *fixed,
        _result(
            "max.message.bytes",
            largest,
            f"{MAX_MESSAGE_BYTES} or more",
            largest.isdigit() and int(largest) >= MAX_MESSAGE_BYTES,
            "Kafka refuses a batch of writes that is larger than this.",
        ),
    ]


def _min_insync(value: str, replicas: int) -> CheckResult:
    """2 of 3: an acknowledged write survives the loss of a broker. 3 of 3: the loss of a broker would stop writes."""
    expected = "1" if replicas < 3 else f"2 to {replicas - 1}"
    number = int(value) if value.isdigit() else 0
    ok = number == 1 if replicas < 3 else 2 <= number < replicas
    why = "With 1, an acknowledged write may be on one disk only; with all replicas, one lost broker stops writes."
    return _result("min.insync.replicas", value, expected, ok, why)


def _auto_create(settings: Mapping[str, str]) -> CheckResult:
    value = _value(settings, "auto.create.topics.enable")
    why = "A deleted log would be recreated, empty and with the default retention, by the next client that asks for it."
    return _result("auto.create.topics.enable", value, "false", value == "false", why)


def _value(settings: Mapping[str, str], name: str) -> str:
    return settings.get(name, NOT_READABLE)


def _result(name: str, value: str, expected: str, ok: bool, why: str) -> CheckResult:
    return CheckResult(name=name, value=value, expected=expected, ok=ok, why=why)
