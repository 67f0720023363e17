"""The local broker: kept data, kept port, crashes, and the errors when it cannot start."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import BrokerUnavailable, ConfigError
from replicator.local.kafka import BrokerState, LocalBroker
from replicator.local.kafka.jars import kafka_home, kafka_version
from replicator.local.kafka.java import parse_version
from replicator.local.kafka.settings import BrokerLayout, Listener, port_of, server_properties, single_broker
from replicator.log.kafka.admin import ensure_topics
from replicator.log.kafka.topic_ids import TopicIds


def no_network(endpoint: str) -> Iterable[Path]:
    raise OSError("Network is unreachable")


def test_without_network_the_three_ways_to_a_broker_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BrokerUnavailable) as caught:
        kafka_home(fetch=no_network)
    for way in ("replicator broker start ", "--kafka-home", "--bootstrap"):
        assert way in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == [], "half a download is left behind"


def test_a_damaged_download_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "kafka_2.13-4.3.1.jar").write_bytes(b"half a jar")
    with pytest.raises(BrokerUnavailable, match="damaged"):
        kafka_home(fetch=lambda endpoint: [tmp_path / "kafka_2.13-4.3.1.jar"])
    assert list((tmp_path / "cache").iterdir()) == []


def test_concurrent_downloads_wait_for_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_CACHE", str(tmp_path))
    descriptor = os.open(tmp_path, os.O_RDONLY)

    def fetch(endpoint: str) -> Iterable[Path]:
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return []

    home = kafka_home(fetch=fetch)
    os.close(descriptor)
    shutil.rmtree(home)

    def wait_for_another(descriptor: int, operation: int) -> None:
        home.mkdir()

    monkeypatch.setattr(fcntl, "flock", wait_for_another)
    assert kafka_home(fetch=no_network) == home


def test_a_folder_without_kafka_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not an Apache Kafka"):
        kafka_home(tmp_path)
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs" / "kafka_2.13-4.1.0.jar").touch()
    assert kafka_version(kafka_home(tmp_path)) == "4.1.0"


@pytest.mark.parametrize(
    ("text", "version"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_402"', 8), ("no java at all", None)],
)
def test_java_versions(text: str, version: int | None) -> None:
    assert parse_version(text) == version


def test_the_port_is_remembered_in_the_settings() -> None:
    assert port_of(server_properties(single_broker(port=9092, controller_port=9093, cluster_id="c"))) == 9092


def test_a_broker_of_three_says_where_the_proxies_in_front_of_it_are() -> None:
    listeners = (Listener("BROKER", 1, Address("broker2", 11)), Listener("FIRST", 2, Address("127.0.0.1", 12)))
    controllers = {node: Address(f"broker{node}", 20 + node) for node in (1, 2, 3)}
    lines = server_properties(BrokerLayout(2, listeners, 3, controllers, "c")).splitlines()
    for line in (
        "node.id=2",
        "controller.quorum.voters=1@broker1:21,2@broker2:22,3@broker3:23",
        "listeners=BROKER://127.0.0.1:1,FIRST://127.0.0.1:2,CONTROLLER://127.0.0.1:3",
        "advertised.listeners=BROKER://broker2:11,FIRST://127.0.0.1:12,CONTROLLER://broker2:22",
        "default.replication.factor=3",
        "min.insync.replicas=2",
        "broker.session.timeout.ms=3000",
    ):
        assert line in lines
    alone = server_properties(single_broker(port=1, controller_port=2, cluster_id="c")).splitlines()
    assert "advertised.listeners=BROKER://127.0.0.1:1" in alone
    assert "min.insync.replicas=1" in alone and "broker.session.timeout.ms=3000" not in alone


def test_an_invalid_heap_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="invalid heap size"):
        LocalBroker(tmp_path, heap="lots")


@pytest.mark.kafka
def test_data_and_port_are_kept_over_stops_and_crashes(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path)
    assert broker.status().state is BrokerState.STOPPED
    bootstrap = broker.start()
    try:
        topic = ensure_topics(bootstrap, "kept").wal
        assert broker.start() == bootstrap, "a running broker is not started again"
        assert broker.status().state is BrokerState.RUNNING
        broker.kill()
        assert broker.status().state is BrokerState.STALE
        assert LocalBroker(tmp_path).start() == bootstrap
        assert TopicIds(bootstrap).get("kept.wal") == topic
        assert broker.stop() and not broker.stop()
        with socket.socket() as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(("127.0.0.1", int(bootstrap.partition(":")[2])))
            taken.listen()
            with pytest.raises(ConfigError, match="is taken by another program"):
                broker.start()
    finally:
        broker.stop()


@pytest.mark.kafka
def test_the_commands(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replicator", "broker", *args, "--dir", str(tmp_path)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=110, env={**os.environ, "COLUMNS": "200"}
        )

    assert run("status").returncode == 3
    started = run("start")
    try:
        assert started.returncode == 0, started.stderr
        status = json.loads(run("status", "--json").stdout)
        assert status["state"] == "running" and status["bootstrap"] in started.stdout
    finally:
        assert run("stop").returncode == 0
    assert run("status").returncode == 3
