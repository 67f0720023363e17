"""PostgreSQL with one streaming standby, and pgbench, which does for it what `closed_loop` does for the others."""

from __future__ import annotations

import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

from replicator.bench.closed_loop import KEYS, WARM_UP_SHARE, LoadResult, percentile
from replicator.bench.peers import SystemAccount, running, wait_until
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.ports import random_free_port

LEAST_S = 3  # on a busy machine, many clients have not finished one transaction after 1 s
DEBIAN = Path("/usr/lib/postgresql")
COMMAND_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "synchronous_commit": "remote_apply",
    "synchronous_standby_names": "*",
}
FILL = (
    "SET synchronous_commit = local",
    "CREATE TABLE kv (key text PRIMARY KEY, value text NOT NULL)",
    "INSERT INTO kv SELECT 'key:' || lpad(n::text, 12, '0'), lpad(n::text, 16, '0') "
    f"FROM generate_series(0, {KEYS - 1}) n",
)
UPSERT = rf"""
\set key random(0, {KEYS - 1})
\set value random(0, {KEYS - 1})
INSERT INTO kv VALUES ('key:' || lpad(:key::text, 12, '0'), lpad(:value::text, 16, '0'))
    ON CONFLICT (key) DO UPDATE SET value = excluded.value;
"""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """The primary or the standby, and the account that it runs as."""

    programs: Path
    folder: Path
    account: SystemAccount
    port: int
    password: str

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        place = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": "bench", "PGDATABASE": "postgres"}
        return {**own, **place, "PGPASSWORD": self.password, "LC_ALL": "C"}

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        self.account.own(self.folder / name)

    def run(self, program: str, *options: str, timeout_s: float = COMMAND_S) -> str:
        """The output of one of PostgreSQL's programs. Raises `ReplicatorError`."""
        try:
            done = subprocess.run(
                [str(self.programs / program), *options],
                capture_output=True,
                text=True,
                timeout=timeout_s,
                cwd=self.folder,
                env=self.environment,
                user=self.account.user,
                group=self.account.group,
                extra_groups=self.account.extra_groups,
            )
        except subprocess.TimeoutExpired:
            raise ReplicatorError(f"{program} has not finished after {timeout_s:.0f} s") from None
        if done.returncode != 0:
            raise ReplicatorError(f"{program} failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")
        return done.stdout

    def query(self, *statements: str) -> str:
        return self.run("psql", "-XAtq", *(part for it in statements for part in ("-c", it))).strip()

    def answers(self) -> bool:
        try:
            return self.query("SELECT 1") == "1"
        except ReplicatorError:
            return False

    @contextmanager
    def running(self, data: str) -> Iterator[subprocess.Popen[bytes]]:
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        line = [str(self.programs / "postgres"), "-D", data, "-p", str(self.port), *settings]
        with running(line, self.folder, signal.SIGQUIT, self.account, self.environment) as process:
            yield process

    def run_load(self, connections: int, seconds: float, script: str = UPSERT) -> LoadResult:
        """Prepared statements, by default single-row upserts by primary key, for whole seconds.

        Raises `ReplicatorError`.
        """
        self.write("load.sql", script)
        line = ["-n", "-M", "prepared", "-f", "load.sql", "-c", str(connections), "-j", "1"]
        self.run("pgbench", *line, "-T", str(ceil(seconds * WARM_UP_SHARE)))
        timed = ["-T", str(max(LEAST_S, ceil(seconds))), "--log", "--log-prefix", "latencies"]
        output = self.run("pgbench", *line, *timed, timeout_s=seconds + COMMAND_S)
        logs = list(self.folder.glob("latencies.*"))
        latencies_s = sorted(second for log in logs for second in parse_latencies_s(log.read_text().splitlines()))
        for log in logs:
            log.unlink()
        return LoadResult(parse_rate(output), percentile(latencies_s, 0.5), percentile(latencies_s, 0.99))


def parse_rate(output: str) -> float:
    """Transactions per second of pgbench, without the time to connect. Raises `ReplicatorError`."""
    found = re.search(r"^tps = ([\d.]+) \(without initial connection time\)", output, re.MULTILINE)
    if found is None:
        raise ReplicatorError(f"pgbench reports no rate: PostgreSQL 14 or newer is needed. Its output: {output[-200:]}")
    return float(found[1])


def parse_latencies_s(lines: Iterable[str]) -> Iterator[float]:
    """From the lines of pgbench's log: client, transaction, microseconds, …"""
    for line in lines:
        yield int(line.split()[2]) / 1e6


def find_programs() -> Path:
    """Raises `ConfigError`."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).parent] if on_path else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda it: float(it.parent.name), reverse=True)
    for folder in folders:
        if all((folder / program).exists() for program in ("initdb", "postgres", "pg_basebackup", "pgbench", "psql")):
            return folder
    raise ConfigError("PostgreSQL is not installed (Debian: apt-get install postgresql)")


def _account() -> SystemAccount:
    """The account to run as: PostgreSQL refuses to run as root. Raises `ConfigError`."""
    if os.geteuid() != 0:
        return SystemAccount()
    for name in ("postgres", "nobody"):
        try:
            return SystemAccount(name, pwd.getpwnam(name).pw_gid, ())
        except KeyError:
            continue
    raise ConfigError("PostgreSQL refuses to run as root, and there is no user postgres: run this as another user")


def _check_reachable(folder: Path, account: SystemAccount) -> None:
    """Raises `ConfigError`."""
    for parent in folder.parents:
        if account.user is not None and not parent.stat().st_mode & stat.S_IXOTH:
            raise ConfigError(
                f"PostgreSQL runs as {account.user}, which has no access to {parent}: set TMPDIR to another folder"
            )


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Without a standby: commits wait for none with `synchronous_commit = local`.

    Raises `ConfigError` if it is not installed, `ReplicatorError`.
    """
    programs, account = find_programs(), _account()
    with tempfile.TemporaryDirectory(prefix="replicator-bench-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        _check_reachable(folder, account)
        account.own(folder)
        server = PostgresServer(programs, folder, account, random_free_port(), secrets.token_hex(16))
        server.write("password", server.password)
        server.run("initdb", "-D", "primary", "-U", "bench", "-A", "scram-sha-256", "--pwfile", "password", "-N")
        with server.running("primary") as process:
            wait_until(server.answers, process, folder)
            yield server


@contextmanager
def postgres_pair() -> Iterator[PostgresServer]:
    """The primary of a pair; the standby has caught up. Raises as `postgres_server`."""
    with postgres_server() as primary:
        standby = replace(primary, port=random_free_port())
        primary.query(*FILL)
        primary.run("pg_basebackup", "-D", "standby", "-R", "-c", "fast")
        with standby.running("standby") as process:
            is_sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'"
            wait_until(lambda: primary.query(is_sync) == "1", process, primary.folder)
            yield primary
