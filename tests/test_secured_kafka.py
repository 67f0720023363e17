"""A real Kafka behind TLS and a password."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from replicator.errors import BrokerUnavailable
from replicator.log.kafka.admin import KafkaAdmin, ensure_topics
from replicator.log.kafka.applied import KafkaAppliedOffsets
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import wal_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.log.port import OffsetCommitRefused
from replicator.position import NodeId, Offset
from tests.log_contract import read
from tests.process_cluster import Cluster
from tests.secured_kafka import start_secured_kafka

pytestmark = pytest.mark.kafka

USER, PASSWORD = "alice", "correct horse"
RESTRICTED_USER = "bob"  # of the same password
LARGE = b"x" * 300_000  # several TLS records


USERS = f'user_{USER}="{PASSWORD}" user_{RESTRICTED_USER}="{PASSWORD}"'
LISTENER = f"""\
sasl.enabled.mechanisms=PLAIN
listener.name.secured.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required {USERS};
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USER}
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, KafkaSecurity]]:
    kafka = start_secured_kafka(tmp_path_factory.mktemp("secured"), LISTENER)
    yield kafka.secured, KafkaSecurity("SASL_SSL", cafile=str(kafka.cafile), username=USER, password=PASSWORD)
    kafka.broker.stop()


async def test_a_log_behind_tls_and_a_password(secured: tuple[str, KafkaSecurity]) -> None:
    bootstrap, security = secured
    await asyncio.to_thread(ensure_topics, bootstrap, "secured", security=security)
    log = await KafkaLog.open(bootstrap, "secured", security=security)
    assert await log.append([b"a", b"b"]) == 0
    assert await log.append([LARGE]) == 2
    assert await log.end() == 3
    reader = log.reader(Offset(0))
    assert await read(reader, 3) == [(0, b"a"), (1, b"b"), (2, LARGE)]
    await reader.close()
    await log.close()


@pytest.mark.parametrize(
    "wrong",
    [{"password": "wrong horse"}, {"cafile": None}, {"security_protocol": "PLAINTEXT", "cafile": None}],
    ids=["password", "authority", "no TLS"],
)
async def test_a_client_that_is_not_let_in_is_told_why(
    secured: tuple[str, KafkaSecurity], wrong: dict[str, str | None]
) -> None:
    bootstrap, security = secured
    with pytest.raises(BrokerUnavailable) as raised:
        await KafkaLog.open(bootstrap, "secured", security=replace(security, **wrong))  # type: ignore[arg-type]
    assert bootstrap in str(raised.value) and "horse" not in str(raised.value)


async def test_a_login_that_may_not_commit_is_told_what_to_allow(secured: tuple[str, KafkaSecurity]) -> None:
    bootstrap, security = secured
    await asyncio.to_thread(ensure_topics, bootstrap, "refused", security=security)
    restricted = replace(security, username=RESTRICTED_USER)
    applied = KafkaAppliedOffsets(bootstrap, "refused", NodeId("n1"), security=restricted)
    with pytest.raises(OffsetCommitRefused, match=r"Read on group refused\.n1 and on topic refused\.wal"):
        await applied.commit(Offset(1))
    admin = KafkaAdmin(bootstrap, security)
    await asyncio.to_thread(allow_to_read, admin, ResourceType.GROUP, "refused.")
    with pytest.raises(OffsetCommitRefused):
        await applied.commit(Offset(1))
    await asyncio.to_thread(allow_to_read, admin, ResourceType.TOPIC, "refused.")
    await applied.commit(Offset(1))
    applied.close()


def allow_to_read(admin: KafkaAdmin, kind: ResourceType, prefix: str) -> None:
    user, permission = f"User:{RESTRICTED_USER}", AclPermissionType.ALLOW
    rule = AclBinding(kind, prefix, ResourcePatternType.PREFIXED, user, "*", AclOperation.READ, permission)
    [future] = admin.client.create_acls([rule]).values()
    admin.result(future)


def test_all_commands_take_the_login_from_the_environment(secured: tuple[str, KafkaSecurity], tmp_path: Path) -> None:
    bootstrap, security = secured
    cluster = Cluster(tmp_path / "cluster", bootstrap)
    login = {
        "SECURITY_PROTOCOL": security.security_protocol,
        "CAFILE": security.cafile,
        "USERNAME": USER,
        "PASSWORD": PASSWORD,
    }
    cluster.environment |= {f"REPLICATOR_KAFKA_{name}": str(value) for name, value in login.items()}
    cluster.up(1)
    try:
        findings = json.loads(cluster.run("doctor", "--json", code=1))
        assert {"name": f"topic {wal_topic(cluster.name)}", "value": "yes"}.items() <= findings[2].items()
        config = tmp_path / "kafka.toml"
        config.write_text("[kafka]\n" + "".join(f"{name.lower()} = '{value}'\n" for name, value in login.items()))
        for name in login:
            del cluster.environment[f"REPLICATOR_KAFKA_{name}"]
        again = json.loads(cluster.run("doctor", "--json", "--config", str(config), code=1))
        assert [(it["name"], it["ok"]) for it in again] == [(it["name"], it["ok"]) for it in findings]
        assert "does not answer" in cluster.run("doctor", code=1)
    finally:
        cluster.environment |= {f"REPLICATOR_KAFKA_{name}": str(value) for name, value in login.items()}
        cluster.run("cluster", "down", "--purge")
    assert TopicIds(bootstrap, security).get(wal_topic(cluster.name)) is None
