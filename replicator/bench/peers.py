"""Servers that are measured next to replicator, on loopback, each for as long as a `with` block lasts: Redis, with or
without a replica, and what `postgres` needs as well.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.ports import random_free_port
from replicator.local.resp_connection import CommandFailed, RespConnection

READY_S = 30.0
STOP_S = 10.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class SystemAccount:
    """The user and groups that a program runs as; by default those of this process."""

    user: str | None = None
    group: int | None = None
    extra_groups: Sequence[int] | None = None

    def own(self, path: Path) -> None:
        """Make the account the owner of the file or folder."""
        if self.user is not None:
            shutil.chown(path, self.user, self.group)


SAME_ACCOUNT = SystemAccount()


@contextmanager
def running(
    line: Sequence[str],
    folder: Path,
    stop: signal.Signals,
    account: SystemAccount = SAME_ACCOUNT,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server in the background, with its output in `log` in its folder. It does not receive Ctrl-C itself."""
    with open(folder / "log", "ab") as log:
        process = subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], folder: Path) -> None:
    """Raises `ReplicatorError` if the process exits, or after 30 s."""
    deadline = time.monotonic() + READY_S
    while not condition():
        exited = process.poll() is not None
        if exited or time.monotonic() > deadline:
            last = (folder / "log").read_text(errors="replace").splitlines()[-1:]
            what = "has exited" if exited else f"is not ready after {READY_S:.0f} s"
            raise ReplicatorError(f"{Path(str(process.args[0])).name} {what}: {' '.join(last)}")  # type: ignore[index]
        time.sleep(POLL_S)


@contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[int]:
    """The port of a Redis without RDB snapshots. Raises `ConfigError` if it is not installed, `ReplicatorError`."""
    program = shutil.which("redis-server")
    if program is None:
        raise ConfigError("Redis is not installed (Debian: apt-get install redis-server)")
    folder.mkdir(parents=True)
    port = random_free_port()
    line = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
    with running(line, folder, signal.SIGTERM) as process:
        wait_until(lambda: _answers(port), process, folder)
        yield port


@contextmanager
def redis_pair(folder: Path, *options: str) -> Iterator[int]:
    """The port of a Redis with one replica that has caught up."""
    with (
        redis_server(folder / "master", "--repl-diskless-sync-delay", "0", *options) as port,
        redis_server(folder / "replica", "--replicaof", f"127.0.0.1 {port}", *options),
        RespConnection(Address("127.0.0.1", port), timeout_s=2 * READY_S) as connection,
    ):
        connection.execute("SET", "first", "1")
        if connection.execute("WAIT", 1, int(READY_S * 1000)) != 1:
            raise ReplicatorError(f"the replica of Redis has not caught up after {READY_S:.0f} s")
        yield port


def _answers(port: int) -> bool:
    try:
        with RespConnection(Address("127.0.0.1", port)) as connection:
            return bool(connection.execute("PING"))
    except (CommandFailed, OSError):
        return False
