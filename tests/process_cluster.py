"""A cluster of real processes, and clients that record the outcome of each write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from replicator.local.folder import ClusterFolder
from replicator.local.ports import free_base_port

T = TypeVar("T")
WAIT_S = 60


class Cluster:
    """Runs the commands of the command line."""

    def __init__(self, dir: Path, bootstrap: str) -> None:
        self.dir = dir
        self.name = f"c-{uuid.uuid4().hex[:8]}"
        self.bootstrap = bootstrap
        self.base_port = free_base_port(6)
        self.folder = ClusterFolder(dir)
        self.environment = {**os.environ, "COLUMNS": "200"}

    def run(self, *args: str, code: int = 0) -> str:
        done = self._run(args)
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def _run(self, args: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "replicator", *args, "--dir", str(self.dir)],
            capture_output=True,
            text=True,
            timeout=120,
            env=self.environment,
        )

    def up(self, nodes: int) -> None:
        options = ("--nodes", str(nodes), "--base-port", str(self.base_port), "--name", self.name)
        self.run("cluster", "up", *options, "--bootstrap", self.bootstrap)

    def client(self, id: str, **options: Any) -> Any:
        # a retry would hide the unknown outcome of the first attempt
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.folder.load().node(id).resp_port, socket_timeout=30, retry=once, **options)

    def status(self) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "replicator", "status", "--json", "--dir", str(self.dir)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    def node(self, id: str, path: str = "/status") -> Any:
        port = self.folder.load().node(id).http_port
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)
        except OSError:
            return {"node": {"state": "unreachable"}}

    def pid(self, id: str) -> int:
        mark = self.folder.process(id)
        assert mark is not None
        return mark.pid

    def kill(self, id: str) -> None:
        os.kill(self.pid(id), signal.SIGKILL)

    def leader(self, ids: list[str]) -> str:
        found: list[str] = []

        def has_leader() -> bool:
            found[:] = [id for id in ids if self.node(id)["node"].get("role") == "leader"]
            return bool(found)

        wait_for(has_leader)
        return found[0]

    def caught_up(self) -> list[Any]:
        """Wait until all nodes have applied the same offset. Returns their statuses, which must have equal digests."""
        found: list[Any] = []

        def have_caught_up() -> bool:
            found[:] = self.status()["nodes"]
            return len({it["applied_offset"] for it in found}) == 1

        wait_for(have_caught_up)
        assert len({it["digest"] for it in found}) == 1, found
        return found


@pytest.fixture
def cluster(kafka: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", kafka)
    yield cluster
    if cluster.dir.exists():
        cluster.run("cluster", "down", "--purge")


def wait_for(condition: Callable[[], T | None], timeout_s: float = WAIT_S) -> T:
    """The first result that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
    return found


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Writer(threading.Thread):
    """Writes numbers to the first node that accepts them, and records the outcome of each write."""

    def __init__(self, clients: list[Any]) -> None:
        super().__init__(daemon=True)
        self.clients = clients
        self.acknowledged: set[int] = set()
        self.rejected: set[int] = set()
        self.unknown: set[int] = set()
        self.stop = threading.Event()

    def run(self) -> None:
        number = 0
        at = 0
        while not self.stop.is_set():
            number += 1
            try:
                self.clients[at].set(f"w:{number}", number)
                self.acknowledged.add(number)
            except redis.ResponseError as error:
                (self.unknown if str(error).startswith("UNKNOWN") else self.rejected).add(number)
                at = (at + 1) % len(self.clients)
                time.sleep(0.01)
            except (redis.ConnectionError, redis.TimeoutError) as error:
                (self.rejected if "refused" in str(error) else self.unknown).add(number)
                at = (at + 1) % len(self.clients)
                time.sleep(0.01)

    def finish(self) -> None:
        self.stop.set()
        self.join()

    def check(self, client: Any) -> None:
        found = {int(key[2:]) for key in client.scan_iter("w:*", count=1000)}
        assert self.acknowledged <= found, f"lost: {sorted(self.acknowledged - found)[:10]}"
        assert not self.rejected & found, f"rejected but present: {sorted(self.rejected & found)[:10]}"
        assert found <= self.acknowledged | self.unknown


class Appender(threading.Thread):
    """Appends numbers to its own key in pipelines, and records the outcome of each append.

    `check` detects appends that were executed twice, or executed although they were rejected.
    """

    BURST = 50

    def __init__(self, clients: list[Any], key: str) -> None:
        super().__init__(daemon=True)
        self.clients = clients
        self.key = key
        self.acknowledged: set[int] = set()
        self.rejected: dict[int, str] = {}  # and the first word of the error
        self.unknown: set[int] = set()
        self.sent = 0
        self.stop = threading.Event()

    def run(self) -> None:
        at = 0
        while not self.stop.is_set():
            numbers = range(self.sent, self.sent + self.BURST)
            self.sent = numbers.stop
            failed = not self._append(self.clients[at], numbers)
            if failed:
                at = (at + 1) % len(self.clients)
                time.sleep(0.01)

    def _append(self, client: Any, numbers: range) -> bool:
        """Whether all were acknowledged."""
        with client.pipeline(transaction=False) as pipe:
            for number in numbers:
                pipe.append(self.key, f"{number},")
            try:
                replies = pipe.execute(raise_on_error=False)
            except redis.ConnectionError as error:
                replies = [error] * len(numbers)
        for number, reply in zip(numbers, replies, strict=True):
            if not isinstance(reply, redis.RedisError):
                self.acknowledged.add(number)
            elif isinstance(reply, redis.ReadOnlyError):
                self.rejected[number] = "READONLY"
            elif isinstance(reply, redis.ResponseError) and not str(reply).startswith("UNKNOWN"):
                self.rejected[number] = str(reply).split()[0]
            elif "refused" in str(reply):
                self.rejected[number] = "refused"
            else:
                self.unknown.add(number)
        return self.acknowledged.issuperset(numbers)

    def finish(self) -> None:
        self.stop.set()
        self.join()

    def check(self, client: Any) -> None:
        found = [int(number) for number in client.get(self.key).split(b",")[:-1]]
        present = set(found)
        assert len(present) == len(found), "appended twice"
        assert self.acknowledged <= present, f"lost: {sorted(self.acknowledged - present)[:10]}"
        assert not self.rejected.keys() & present, (
            f"rejected but present: {sorted(self.rejected.keys() & present)[:10]}"
        )
        assert present <= self.acknowledged | self.unknown
        assert len(self.acknowledged) + len(self.rejected) + len(self.unknown) == self.sent
