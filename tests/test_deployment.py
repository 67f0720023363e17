"""docs/deployment.md: its files and commands, on one machine in the place of three, with a Kafka that has ACLs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from replicator.errors import BrokerUnavailable, ConfigError
from replicator.local.kafka.jars import kafka_home
from replicator.local.kafka.java import find_java
from replicator.local.ports import random_free_ports
from replicator.log.kafka.acks import KafkaAcks
from replicator.log.kafka.admin import ACKS_SETTINGS, WAL_SETTINGS, KafkaAdmin, delete_topics, ensure_topics
from replicator.log.kafka.check import NOT_READABLE, check_topic
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.options import KafkaOptions
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic_ids import TopicIds
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.logging_setup import LogSettings
from replicator.position import NodeId, Offset
from replicator.protocol.log_state import LogState
from replicator.stream import BlockingChangeStream
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.management import StreamOptions, StreamStart, create, reset
from replicator.stream.run_publisher import PublisherSettings
from replicator.stream.service import PUBLISHER
from replicator.stream.settings import Progress
from tests.process_cluster import wait_for
from tests.secured_kafka import SecuredKafka, start_secured_kafka
from tests.stream_fixture import MadeUpLog
from tests.systemd_files import environment_file

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "deployment.md"
FILES = ROOT / "compose" / "systemd"
CLUSTER = "shop"
USERS = ("shop", "operator", "audit")
HOSTS = {"10.0.0.1": "127.0.0.2", "10.0.0.2": "127.0.0.3", "10.0.0.3": "127.0.0.4"}
BROKERS = "kafka1.example.org:9093,kafka2.example.org:9093,kafka3.example.org:9093"
CAFILE = "/etc/replicator/kafka-ca.pem"
LISTENER = """\
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secured.scram-sha-512.sasl.jaas.config=\
org.apache.kafka.common.security.scram.ScramLoginModule required;
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""
OPERATIONS = {"Read": AclOperation.READ, "Write": AclOperation.WRITE, "Create": AclOperation.CREATE}
OPERATIONS |= {
    "Describe": AclOperation.DESCRIBE,
    "Delete": AclOperation.DELETE,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
}
ALLOWED = AclPermissionType.ALLOW
IMPATIENT = KafkaOptions(reader_timeout_ms=1)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def commands(tool: str) -> list[list[str]]:
    """Those of the page that begin with `tool`, without it."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [words[1:] for words in map(shlex.split, lines) if words and words[0] == tool]


NODE, UNIT = (FILES / "node.toml.example").read_text(), (FILES / "replicator.service").read_text()
[OPERATOR] = blocks("toml")
ENVIRONMENT = environment_file(FILES / "node.env.example")


def test_the_page_installs_the_files_of_the_folder() -> None:
    installed = [words[-2:] for words in commands("install") if words[0] == "-m"]
    assert {source for source, _ in installed} == {str(it.relative_to(ROOT)) for it in FILES.iterdir()}
    [unit] = [target for source, target in installed if source.endswith(".service")]
    assert unit == "/etc/systemd/system/replicator.service"
    for _, target in installed:
        assert target == unit or f"={target}" in UNIT or f" {target}" in UNIT


def parsed(words: Sequence[str], *options: str) -> argparse.Namespace:
    """Each option of Kafka's command may be given several times; `--add` and others have no value."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--bootstrap-server", "--command-config", *options):
        parser.add_argument(name, action="append", default=[])
    for name in ("--add", "--create", "--alter", "--cluster"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args(words)


def topics(replicas: int) -> list[NewTopic]:
    """As `kafka-topics.sh` of the page creates them."""
    created = []
    for words in commands("kafka-topics.sh"):
        given = parsed(words, "--topic", "--partitions", "--replication-factor", "--config")
        config = dict(setting.split("=") for setting in given.config)
        created.append(NewTopic(given.topic[0], int(given.partitions[0]), replicas, config=config))
    return created


def acls(cluster: str = CLUSTER) -> list[AclBinding]:
    """As `kafka-acls.sh` of the page adds them."""
    return [
        AclBinding(
            kind, name, ResourcePatternType.LITERAL, given.allow_principal[0], "*", OPERATIONS[operation], ALLOWED
        )
        for words in commands("kafka-acls.sh")
        for given in [parsed(words, "--allow-principal", "--operation", "--topic", "--group", "--transactional-id")]
        for kind, name in [
            *(
                (kind, name.replace(f"{CLUSTER}.", f"{cluster}."))
                for kind, names in (
                    (ResourceType.TOPIC, given.topic),
                    (ResourceType.GROUP, given.group),
                    (ResourceType.TRANSACTIONAL_ID, given.transactional_id),
                )
                for name in names
            ),
            *([(ResourceType.BROKER, "kafka-cluster")] if given.cluster else []),
        ]
        for operation in given.operation
    ]


def test_topics_of_the_page_have_the_settings_that_nodes_give_them() -> None:
    wal, acks = topics(replicas=3)
    assert (wal.topic, wal.num_partitions) == (f"{CLUSTER}.wal", 1)
    assert (acks.topic, acks.num_partitions) == (f"{CLUSTER}.acks", 1)
    assert wal.config == {**WAL_SETTINGS, "min.insync.replicas": "2"}
    assert acks.config == ACKS_SETTINGS


@dataclass(frozen=True)
class Authorized:
    """A Kafka with the users of the page."""

    kafka: SecuredKafka
    admin: KafkaAdmin

    def security(self, user: str) -> KafkaSecurity:
        password = ENVIRONMENT["REPLICATOR_KAFKA_PASSWORD"]
        return KafkaSecurity("SASL_SSL", str(self.kafka.cafile), None, None, "SCRAM-SHA-512", user, password)

    def allow(self, bindings: list[AclBinding]) -> None:
        for future in self.admin.client.create_acls(bindings).values():
            future.result()
        wait_for(lambda: self._present().issuperset(bindings))  # the controller answers before the broker has them

    def forbid(self, binding: AclBinding) -> None:
        it = binding
        the_same = AclBindingFilter(
            it.restype, it.name, it.resource_pattern_type, it.principal, it.host, it.operation, it.permission_type
        )
        [future] = self.admin.client.delete_acls([the_same]).values()
        assert len(future.result()) == 1
        wait_for(lambda: binding not in self._present())

    def _present(self) -> set[AclBinding]:
        """As the broker's authorizer has them."""
        whichever: Any = None  # the stubs want a text
        every = AclBindingFilter(
            ResourceType.ANY,
            whichever,
            ResourcePatternType.ANY,
            whichever,
            whichever,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        return set(self.admin.client.describe_acls(every).result())

    def cluster(self) -> str:
        """The name of a new one, with all ACLs of the page."""
        name = f"c-{uuid.uuid4().hex[:8]}"
        self.allow(acls(name))
        return name


@pytest.fixture(scope="module")
def authorized(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authorized]:
    kafka = start_secured_kafka(tmp_path_factory.mktemp("authorized"), LISTENER)
    admin = KafkaAdmin(kafka.plain, None)
    scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    password = ENVIRONMENT["REPLICATOR_KAFKA_PASSWORD"].encode()
    changes: list[UserScramCredentialAlteration] = [
        UserScramCredentialUpsertion(user, scram, password) for user in USERS
    ]
    for future in admin.client.alter_user_scram_credentials(changes).values():
        future.result()
    yield Authorized(kafka, admin)
    kafka.broker.stop()


class Hosts:
    """The three hosts of the page. What is its text there is adapted to this machine here."""

    def __init__(self, folder: Path, kafka: SecuredKafka) -> None:
        self.folder = folder
        self.kafka = kafka
        self.resp, self.http = random_free_ports(2)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, **ENVIRONMENT, "COLUMNS": "200"}

    def adapted(self, text: str) -> str:
        text = text.replace(BROKERS, self.kafka.secured).replace(BROKERS.partition(",")[0], self.kafka.secured)
        text = text.replace(CAFILE, str(self.kafka.cafile))
        text = text.replace(":7001", f":{self.resp}").replace(":8001", f":{self.http}")
        for shown, address in HOSTS.items():
            text = text.replace(shown, address)
        return text

    def start(self, number: int) -> None:
        """Node n`number`, by the command of the unit and the file of its host."""
        address = list(HOSTS.values())[number - 1]
        shown = NODE.replace('id = "n1"', f'id = "n{number}"').replace("priority = 1", f"priority = {number}")
        text = self.adapted(shown.replace("10.0.0.1", address).replace("0.0.0.0", address))
        file = self.folder / f"n{number}.toml"
        file.write_text(text.replace("/var/lib/replicator", str(self.folder / f"n{number}")))
        [command] = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
        words = command.replace("/etc/replicator/node.toml", str(file)).split()
        assert Path(words[0]).name == "replicator"
        with open(self.folder / f"n{number}.log", "ab") as log:
            self.processes[f"n{number}"] = subprocess.Popen(
                [sys.executable, "-m", "replicator", *words[1:]], stdout=log, stderr=log, env=self.environment
            )

    def run(self, words: Sequence[str], code: int = 0) -> str:
        """A command of the page."""
        done = subprocess.run(
            [sys.executable, "-m", "replicator", *map(self.adapted, words)],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "replicator",
                *map(self.adapted, ["status", "--json", "--connect", "10.0.0.1:7001"]),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env=self.environment,
        )
        return json.loads(done.stdout) if done.stdout else {"nodes": [], "leader": None}

    def answers(self, path: str) -> list[str]:
        """The addresses of the hosts that answer 200."""
        found = []
        for address in HOSTS.values():
            try:
                with urllib.request.urlopen(f"http://{address}:{self.http}{path}", timeout=5):
                    found.append(address)
            except OSError:
                continue
        return found

    def client(self, address: str) -> Any:
        return redis.Redis(
            address,
            self.resp,
            password=ENVIRONMENT["REPLICATOR_NODE_PASSWORD"],
            decode_responses=True,
            socket_timeout=30,
        )

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(30)


@pytest.fixture
def hosts(authorized: Authorized, tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, authorized.kafka)
    yield hosts
    hosts.stop()


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_cluster_on_three_hosts_as_described(authorized: Authorized, hosts: Hosts) -> None:
    authorized.allow(acls())
    for future in authorized.admin.client.create_topics(
        [NewTopic(it.topic, 1, 1, config={**(it.config or {}), "min.insync.replicas": "1"}) for it in topics(1)]
    ).values():
        future.result()
    operator = hosts.folder / "operator.toml"
    operator.write_text(hosts.adapted(OPERATOR))
    [doctor] = [words for words in commands("replicator") if words[0] == "doctor"]
    words = [word.replace("/etc/replicator/operator.toml", str(operator)) for word in doctor]
    found = {it["name"]: it for it in json.loads(hosts.run([*words, "--json"], code=1))}
    assert {name for name, it in found.items() if not it["ok"]} <= {"brokers", "replicas", "build", "python"}
    for number in (1, 2, 3):
        hosts.start(number)
    wait_for(lambda: len([it for it in hosts.status()["nodes"] if it["state"] == "serving"]) == 3)
    for words in commands("replicator"):
        if words[0] != "doctor":
            hosts.run(words)
    wait_for(lambda: len(hosts.answers("/leader")) == 1 and len(hosts.answers("/replica")) == 2)
    status = hosts.status()
    assert status["policy"] == {"write": "sync", "wait_for": "quorum", "quorum": 2, "named": [], "replicate": "row"}
    assert {it["id"]: it["resp"] for it in status["nodes"]} == {
        f"n{number}": f"{address}:{hosts.resp}" for number, address in enumerate(HOSTS.values(), 1)
    }
    [leader] = hosts.answers("/leader")
    hosts.client(leader).set("greeting", "hello")
    for address in hosts.answers("/replica"):
        assert hosts.client(address).execute_command("REPL.READ", "linearizable", "GET", "greeting") == "hello"
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(leader, hosts.resp).get("greeting")

    [unused, *_] = [id for id in hosts.processes if id != status["leader"]]
    hosts.processes[unused].send_signal(signal.SIGKILL)
    hosts.processes[unused].wait()
    hosts.client(leader).set("greeting", "again")  # the other follower is enough
    hosts.processes[status["leader"]].terminate()
    assert hosts.processes[status["leader"]].wait(30) == 0
    wait_for(lambda: len(hosts.answers("/leader")) == 1 and hosts.answers("/leader") != [leader])


@pytest.mark.kafka
async def test_with_the_acls_of_the_page_nodes_create_topics_and_use_them(authorized: Authorized) -> None:
    name, security = authorized.cluster(), authorized.security("shop")
    await asyncio.to_thread(ensure_topics, authorized.kafka.secured, name, security=security)
    await append_and_read(authorized, name)
    with pytest.raises(ConfigError, match=f"needs the ACL operation Delete on topic {name}.wal"):
        await asyncio.to_thread(delete_topics, authorized.kafka.secured, name, security=security)


@pytest.mark.kafka
async def test_topics_that_exist_need_no_permission_to_create_any(authorized: Authorized) -> None:
    name, security = authorized.cluster(), authorized.security("shop")
    await asyncio.to_thread(ensure_topics, authorized.kafka.plain, name)
    for binding in acls(name):
        if binding.operation is AclOperation.CREATE:
            authorized.forbid(binding)
    await asyncio.to_thread(ensure_topics, authorized.kafka.secured, name, security=security)
    await append_and_read(authorized, name)


async def append_and_read(authorized: Authorized, name: str) -> None:
    """Raises what the log and the acks raise."""
    bootstrap, security = authorized.kafka.secured, authorized.security("shop")
    log = await KafkaLog.open(bootstrap, name, security=security, options=IMPATIENT)
    try:
        await log.append([b"a"])
        reader = log.reader(Offset(0))
        try:
            assert [entry.payload for entry in await reader.next()] == [b"a"]
        finally:
            await reader.close()
    finally:
        await log.close()
    acks = await KafkaAcks.open(bootstrap, name, NodeId("n1"), security=security, options=IMPATIENT)
    try:
        await acks.send(b"b")
        assert await acks.receive() == [b"b"]
    finally:
        await acks.close()


@pytest.mark.kafka
@pytest.mark.parametrize("topic", ["wal", "acks"])
@pytest.mark.parametrize("operation", ["Read", "Write"])
async def test_a_node_names_the_acl_that_it_lacks(authorized: Authorized, topic: str, operation: str) -> None:
    name = authorized.cluster()
    await asyncio.to_thread(ensure_topics, authorized.kafka.plain, name)
    for binding in acls(name):
        if (binding.principal, binding.name) == ("User:shop", f"{name}.{topic}") and binding.operation is OPERATIONS[
            operation
        ]:
            authorized.forbid(binding)
    expected = f"not authorized: it needs the ACL operation {operation} on topic {name}.{topic} "
    with pytest.raises((BrokerUnavailable, AppendRefused), match=expected):
        await append_and_read(authorized, name)


@pytest.mark.kafka
@pytest.mark.parametrize("topic", ["wal", "acks"])
async def test_a_user_without_any_acl_on_a_topic_is_told(authorized: Authorized, topic: str) -> None:
    name, bootstrap, security = authorized.cluster(), authorized.kafka.secured, authorized.security("shop")
    creating = [it for it in acls(name) if it.operation is AclOperation.CREATE and it.name == f"{name}.{topic}"]
    for binding in acls(name):
        if (binding.principal, binding.name) == ("User:shop", f"{name}.{topic}"):
            authorized.forbid(binding)
    needed = f"not authorized: it needs the ACL operation {{}} on topic {name}.{topic} "
    with pytest.raises(ConfigError, match=needed.format("Describe")):
        await asyncio.to_thread(ensure_topics, bootstrap, name, security=security)
    describing = [describe_of(it) for it in creating]
    authorized.allow(describing)
    with pytest.raises(ConfigError, match=needed.format("Create")):
        await asyncio.to_thread(ensure_topics, bootstrap, name, security=security)
    await asyncio.to_thread(ensure_topics, authorized.kafka.plain, name)
    authorized.forbid(describing[0])
    with pytest.raises(BrokerUnavailable, match=needed.format("Describe")):
        await append_and_read(authorized, name)


def describe_of(binding: AclBinding) -> AclBinding:
    resource = binding.restype, binding.name, binding.resource_pattern_type
    return AclBinding(*resource, binding.principal, binding.host, AclOperation.DESCRIBE, binding.permission_type)


@pytest.mark.kafka
def test_an_operator_may_run_doctor_and_purge(authorized: Authorized) -> None:
    name, bootstrap, security = authorized.cluster(), authorized.kafka.secured, authorized.security("operator")
    ensure_topics(authorized.kafka.plain, name)
    values = {it.name: it.value for it in check_topic(bootstrap, name, security=security)}
    assert NOT_READABLE not in values.values()
    values = {it.name: it.value for it in check_topic(bootstrap, name, security=authorized.security("shop"))}
    assert values["cleanup.policy"] == values["auto.create.topics.enable"] == NOT_READABLE
    deleting = [it for it in acls(name) if it.operation is AclOperation.DELETE]
    for binding in deleting:
        authorized.forbid(binding)
    check_topic(bootstrap, name, security=security)
    with pytest.raises(ConfigError, match=rf"needs the ACL operation Delete on topic {name}\.wal"):
        delete_topics(bootstrap, name, security=security)
    authorized.allow(deleting)
    delete_topics(bootstrap, name, security=security)
    assert TopicIds(authorized.kafka.plain).get(f"{name}.wal") is None
    with pytest.raises(ConfigError, match=r"needs the ACL operation Describe on topic other\.wal"):
        check_topic(bootstrap, "other", security=security)


@pytest.mark.kafka
def test_a_reader_of_the_log_needs_its_topic_and_its_group(authorized: Authorized) -> None:
    name = authorized.cluster()
    ensure_topics(authorized.kafka.plain, name)
    topic = TopicPartition(f"{name}.wal", 0, 0)
    consumer = Consumer(
        {
            "bootstrap.servers": authorized.kafka.secured,
            "group.id": "audit",
            **authorized.security("audit").for_librdkafka(),
        }
    )
    try:
        assert consumer.get_watermark_offsets(topic, timeout=10) == (0, 0)
        consumer.commit(offsets=[topic], asynchronous=False)
        [group] = [it for it in acls(name) if it.restype is ResourceType.GROUP and it.principal == "User:audit"]
        authorized.forbid(group)
        with pytest.raises(KafkaException, match="GROUP_AUTHORIZATION_FAILED"):
            consumer.commit(offsets=[topic], asynchronous=False)
    finally:
        consumer.close()
        authorized.allow(acls(name))


@pytest.mark.kafka
def test_the_change_stream_with_the_acls_of_the_page(authorized: Authorized) -> None:
    """Published by the user of the nodes, and read by one that may read it only."""
    name, bootstrap = authorized.cluster(), authorized.kafka.secured
    ensure_topics(authorized.kafka.plain, name)
    kafka = KafkaAccess(bootstrap, name, NodeId("n1"), authorized.security("shop"))
    create(kafka, StreamOptions(), StreamStart(Progress(LogState())))
    log = MadeUpLog()
    producer = Producer({"bootstrap.servers": authorized.kafka.plain})
    for entry in (log.claim(), log.write("SET k v")):
        producer.produce(f"{name}.wal", entry.payload)
    producer.flush()
    settings = PublisherSettings(
        bootstrap, name, NodeId("n1"), Path("none"), Path("none"), authorized.security("shop"), LogSettings()
    )
    publishing = subprocess.Popen(PUBLISHER, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert publishing.stdin is not None
    try:
        publishing.stdin.write(settings.encode())
        publishing.stdin.flush()
        with BlockingChangeStream(bootstrap, name, security=authorized.security("audit")) as changes:
            [change] = changes.read(10, timeout_s=60)
        assert (change.row, change.op) == (b"k", "c")
    finally:
        publishing.terminate()
        publishing.wait()
    reset(kafka)


@pytest.mark.kafka
async def test_a_quota_that_is_too_low_delays_appends_and_one_of_the_user_overrides_it(authorized: Authorized) -> None:
    name, security = authorized.cluster(), authorized.security("shop")
    await asyncio.to_thread(ensure_topics, authorized.kafka.plain, name)
    [generous] = commands("kafka-configs.sh")
    log = await KafkaLog.open(authorized.kafka.secured, name, security=security)
    try:
        quota(authorized, [word.replace("50000000", "1000") if "=" in word else word for word in generous])
        await log.append([bytes(20_000)])  # it exceeds the quota: answered at once, and the next one waits
        with pytest.raises(AppendOutcomeUnknown, match="no answer within 2000 ms"):
            await log.append([bytes(20_000)])
        quota(authorized, generous)
        for _ in range(2):
            await log.append([bytes(20_000)])
    finally:
        await log.close()


def quota(authorized: Authorized, words: Sequence[str]) -> None:
    """Runs `kafka-configs.sh`, as the superuser."""
    given = list(words)
    given[given.index("--bootstrap-server") + 1] = authorized.kafka.plain
    at = given.index("--command-config")
    del given[at : at + 2]
    java, libraries = str(find_java()), str(kafka_home() / "libs" / "*")
    done = subprocess.run(
        [java, "-cp", libraries, "kafka.admin.ConfigCommand", *given], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and "Completed updating config" in done.stdout, done.stdout + done.stderr
