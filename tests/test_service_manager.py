"""What a node reports to systemd: over real sockets, and by real processes."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from replicator.local.ports import random_free_ports
from replicator.node.health import NodeState
from replicator.server.service_manager import NOTIFY_SOCKET, ServiceManager, ServiceState
from tests.memory_cluster import until

SERVING = ServiceState(NodeState.SERVING, "follower")
WAITING = ServiceState(NodeState.WAITING, "the process is starting")


class NotifySocket:
    """As systemd has one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(60)

    def receive(self) -> list[str]:
        """The assignments of the next datagram."""
        return self._socket.recv(8192).decode().split("\n")

    def receive_until(self, assignment: str) -> list[str]:
        """All up to the datagram with this one."""
        found = self.receive()
        while assignment not in found:
            found += self.receive()
        return found

    def is_empty(self) -> bool:
        readable, _, _ = select.select([self._socket], [], [], 0)
        return not readable

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NotifySocket]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@replicator-{uuid.uuid4()}"
    notified = NotifySocket(address)
    yield notified
    notified.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.server.service_manager.SERVICE_STATUS_S", 0)


@pytest.mark.usefixtures("quick")
async def test_each_change_is_reported_once_and_readiness_once(systemd: NotifySocket) -> None:
    states = [WAITING, WAITING, SERVING, SERVING, WAITING, SERVING]
    manager = ServiceManager(systemd.address)

    def next_state() -> ServiceState:
        return states.pop(0) if len(states) > 1 else states[0]

    reporting = asyncio.create_task(manager.report(next_state))
    await until(lambda: len(states) == 1)
    await asyncio.sleep(0)
    manager.stopping()
    await reporting  # nothing is reported any more
    assert systemd.receive() == ["STATUS=waiting: the process is starting"]
    assert systemd.receive() == ["STATUS=serving: follower", "READY=1"]
    assert systemd.receive() == ["STATUS=waiting: the process is starting"]
    assert systemd.receive_until("STOPPING=1")[-2:] == ["STATUS=stopping", "STOPPING=1"]
    assert systemd.is_empty()


@pytest.mark.usefixtures("quick")
async def test_what_could_not_be_sent_is_sent_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = str(tmp_path / "later")
    reporting = asyncio.create_task(ServiceManager(address).report(lambda: SERVING))
    await until(lambda: bool(caplog.messages))
    systemd = NotifySocket(address)
    received = await asyncio.to_thread(systemd.receive)
    reporting.cancel()
    systemd.close()
    assert received == ["STATUS=serving: follower", "READY=1"]
    assert caplog.messages == [
        f"the service manager cannot be notified at {address}: [Errno 2] No such file or directory"
    ]


@pytest.mark.parametrize("address", ["x" * 200, "vsock:2:1", "", "@"])
async def test_an_address_that_cannot_be_used_disturbs_nothing(address: str) -> None:
    manager = ServiceManager(address)
    reporting = asyncio.create_task(manager.report(lambda: SERVING))
    await asyncio.sleep(0)
    manager.stopping()
    reporting.cancel()
    [ended] = await asyncio.gather(reporting, return_exceptions=True)
    assert not isinstance(ended, Exception)


def test_processes_of_a_node_do_not_report_for_it() -> None:
    environment = {NOTIFY_SOCKET: "/run/notify", "HOME": "/"}
    ServiceManager.taken_from(environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (SERVING, "serving: follower"),
        (ServiceState(NodeState.CATCHING_UP, ""), "catching up"),
        (ServiceState(NodeState.FAILED, "two\nlines"), "failed: two lines"),
        (ServiceState(NodeState.FAILED, "x" * 600), f"failed: {'x' * 491}…"),
    ],
)
def test_a_status_is_one_line(state: ServiceState, text: str) -> None:
    assert state.text == text


# Real nodes


def run_node(folder: Path, systemd: NotifySocket, bootstrap: str, resp: int, http: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "replicator",
        "node",
        "run",
        "--id",
        "n1",
        "--cluster",
        f"c-{uuid.uuid4().hex[:8]}",
    ]
    command += ["--bootstrap", bootstrap, "--dir", str(folder / "n1")]
    command += ["--resp", f"127.0.0.1:{resp}", "--http", f"127.0.0.1:{http}"]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, NOTIFY_SOCKET: systemd.address})


def test_a_node_that_waits_for_kafka_is_not_ready_and_says_so(tmp_path: Path, systemd: NotifySocket) -> None:
    process = run_node(tmp_path, systemd, "127.0.0.1:1", *random_free_ports(2))
    received = systemd.receive()
    while not received[-1].startswith("STATUS=waiting: Kafka at 127.0.0.1:1 "):
        received += systemd.receive()
    process.send_signal(signal.SIGTERM)
    received += systemd.receive_until("STOPPING=1")
    assert process.wait(30) == 0
    assert "READY=1" not in received and systemd.is_empty()


@pytest.mark.kafka
def test_a_node_is_ready_once_it_serves(tmp_path: Path, systemd: NotifySocket, kafka: str) -> None:
    resp, http = random_free_ports(2)
    process = run_node(tmp_path, systemd, kafka, resp, http)
    try:
        received = systemd.receive_until("READY=1")
        assert redis.Redis(port=resp, socket_timeout=10).get("k") is None  # with no attempt to repeat
        if "STATUS=serving: leader" not in received:  # it serves before it has become the leader
            systemd.receive_until("STATUS=serving: leader")
    finally:
        process.terminate()
    assert systemd.receive_until("STOPPING=1")
    assert process.wait(30) == 0
