"""Start, stop, kill and status of the broker in one folder.

DIR/data/               Kafka's data; stop, kill and start keep it
DIR/server.properties   written at each start; keeps the port for the next one
DIR/broker.log          Kafka's log; broker.out is the output of Java before it can log
DIR/broker.pid          the running process; stale after a crash
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

from replicator.address import Address
from replicator.errors import BrokerUnavailable, ConfigError
from replicator.local.kafka import settings
from replicator.local.kafka.jars import kafka_home, kafka_version
from replicator.local.kafka.java import find_java
from replicator.local.kafka.settings import BrokerLayout
from replicator.local.ports import is_free, random_free_port
from replicator.local.process import ProcessIdentity, identify, is_alive, kill, terminate
from replicator.log.kafka.probe import BrokerProbe

_START_TIMEOUT_S = 90
_STOP_TIMEOUT_S = 30
_PROBE_S = 2.0


class BrokerState(StrEnum):
    RUNNING = "running"
    UNRESPONSIVE = "unresponsive"  # the process runs, but does not answer (yet)
    STALE = "stale"  # the process exited without `stop`
    STOPPED = "stopped"


@dataclass(frozen=True)
class BrokerStatus:
    state: BrokerState
    bootstrap: str | None  # None before the first start
    version: str | None  # of the process; None if it does not run, as the pid
    pid: int | None
    cluster_id: str | None
    data_dir: Path
    log_file: Path


@dataclass(frozen=True)
class _PidFile:
    pid: int
    started: str
    version: str

    @property
    def process(self) -> ProcessIdentity:
        return ProcessIdentity(self.pid, self.started)


class LocalBroker:
    """One Kafka in one folder. Several processes may use the same folder: a lock serialises them.

    `port` None: the port of the last start, or a free one. `home`: an unpacked Kafka instead of the cached one.
    `layout`: of a broker that has others beside it; it answers only once most of them run. `jmx_port`: for
    `BrokerCounters`.
    """

    def __init__(
        self,
        dir: Path,
        port: int | None = None,
        heap: str = "512m",
        *,
        home: Path | None = None,
        layout: BrokerLayout | None = None,
        jmx_port: int | None = None,
    ) -> None:
        if not re.fullmatch(r"[1-9]\d*[kmgKMG]", heap):
            raise ConfigError(f"invalid heap size {heap!r}: expected a number with k, m or g, for example 512m")
        if not Path("/proc/self/stat").exists():
            raise ConfigError("the local broker needs Linux: use --bootstrap HOST:PORT of a running Kafka")
        self.dir = dir.absolute()
        self._port = port
        self._layout = layout
        self._jmx_port = jmx_port
        self._heap = heap
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Return the bootstrap address once the broker answers; a running broker is not restarted.

        Raises `ConfigError` (no Java, port taken, folder not usable), `BrokerUnavailable` (Kafka cannot be fetched, or
        does not start; the message ends with the last lines of its log).
        """
        with self._lock():
            running = self._running()
            if running:
                return self._adopt(running)
            home = kafka_home(self._home)
            layout = self._layout or settings.single_broker(
                port=self._choose_port(), controller_port=random_free_port(), cluster_id=new_cluster_id()
            )
            java = str(find_java())
            options = partial(
                settings.java_options,
                heap=self._heap,
                classpath=str(home / "libs" / "*"),
                own_hosts=bool(layout.hosts),
            )
            self._write("log4j2.xml", settings.LOG4J2_XML)
            if layout.hosts:
                self._write(settings.HOSTS_FILE, settings.hosts_file(layout))
            if not self._data.exists():
                self._format([java, *options()], layout)
            self._write("server.properties", settings.server_properties(layout))
            command = [java, *options(jmx_port=self._jmx_port), "kafka.Kafka", "server.properties"]
            return self._launch(command, kafka_version(home))

    def stop(self) -> bool:
        """SIGTERM, and SIGKILL after 30 s. False if the broker was not running. Raises `BrokerUnavailable`."""
        if not self.dir.exists():
            return False
        with self._lock():
            running = self._running()
            if running and not terminate(running.process, _STOP_TIMEOUT_S):
                raise BrokerUnavailable(f"process {running.pid} does not exit, not even after SIGKILL")
            self._forget()
            return running is not None

    def kill(self) -> None:
        """SIGKILL, like a crash: the pid file stays. Raises `BrokerUnavailable`."""
        running = self._running()
        if running and not kill(running.process):
            raise BrokerUnavailable(f"process {running.pid} does not exit, not even after SIGKILL")

    @property
    def process(self) -> ProcessIdentity | None:
        """None if it does not run."""
        running = self._running()
        return running.process if running else None

    def status(self) -> BrokerStatus:
        last = self._pid_file()
        bootstrap = self._bootstrap()
        if last is None:
            state = BrokerState.STOPPED
        elif not is_alive(last.process):
            state = BrokerState.STALE
        elif bootstrap and BrokerProbe(bootstrap).cluster_id(_PROBE_S) == self._cluster_id():
            state = BrokerState.RUNNING
        else:
            state = BrokerState.UNRESPONSIVE
        running = last if state in (BrokerState.RUNNING, BrokerState.UNRESPONSIVE) else None
        return BrokerStatus(
            state=state,
            bootstrap=bootstrap,
            version=running.version if running else None,
            pid=running.pid if running else None,
            cluster_id=self._cluster_id(),
            data_dir=self._data,
            log_file=self.log_file,
        )

    @property
    def pid(self) -> int | None:
        """Of its process, if that is running; it may not answer."""
        last = self._pid_file()
        return last.process.pid if last is not None and is_alive(last.process) else None

    @property
    def log_file(self) -> Path:
        return self.dir / settings.LOG_FILE

    @property
    def _data(self) -> Path:
        return self.dir / settings.DATA_FOLDER

    def _adopt(self, running: _PidFile) -> str:
        bootstrap = self._bootstrap()
        if bootstrap is None:
            raise ConfigError(
                f"{self.dir}/server.properties is missing while process {running.pid} runs: stop it first"
            )
        if self._port is not None and bootstrap != _address(self._port):
            raise ConfigError(f"the broker in {self.dir} runs at {bootstrap}: stop it first to give it another port")
        self._await_answer(bootstrap, running.process)
        return bootstrap

    def _choose_port(self) -> int:
        port = self._port or settings.port_of(_read(self.dir / "server.properties"))
        if port is None:
            return random_free_port()
        if not is_free(port):
            raise ConfigError(f"port {port} is taken by another program: stop it, or choose another port with --port")
        return port

    def _format(self, command: list[str], layout: BrokerLayout) -> None:
        """Format an empty data folder. It is renamed last, so that an incomplete one is never used."""
        unfinished = f"{settings.DATA_FOLDER}.new"
        self._write("format.properties", settings.server_properties(layout, unfinished))
        arguments = ["format", "--ignore-formatted", "--cluster-id", layout.cluster_id, "--config", "format.properties"]
        done = subprocess.run(
            [*command, "kafka.tools.StorageTool", *arguments],
            cwd=self.dir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise BrokerUnavailable(f"Kafka cannot format {self._data}:\n{done.stdout}{done.stderr}".rstrip())
        os.rename(self.dir / unfinished, self._data)
        (self.dir / "format.properties").unlink()

    def _launch(self, command: list[str], version: str) -> str:
        with open(self.dir / "broker.out", "wb") as out:
            child = subprocess.Popen(
                command, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        self._child = child
        try:
            process = identify(child.pid)
            bootstrap = self._bootstrap()
            if process is None or bootstrap is None:
                raise BrokerUnavailable(f"Kafka exited at once.\n{self._log_tail()}")
            self._write("broker.pid", json.dumps(asdict(_PidFile(process.pid, process.started, version))))
            self._await_answer(bootstrap, process)
        except BaseException:  # also on Ctrl-C: a broker that nobody waits for must not keep running
            child.kill()
            child.wait()
            self._forget()
            raise
        return bootstrap

    def _await_answer(self, bootstrap: str, process: ProcessIdentity) -> None:
        health = BrokerProbe(bootstrap)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while (answering := health.cluster_id(timeout_s=0.25)) is None:
            if not is_alive(process):
                raise BrokerUnavailable(f"Kafka exited while it was starting.\n{self._log_tail()}")
            if time.monotonic() >= deadline:
                raise BrokerUnavailable(
                    f"Kafka (process {process.pid}) does not answer at {bootstrap} after {_START_TIMEOUT_S} s.\n"
                    f"{self._log_tail()}"
                )
        if answering != self._cluster_id():
            raise BrokerUnavailable(f"another cluster ({answering}) answers at {bootstrap}: choose another --port")

    def _running(self) -> _PidFile | None:
        last = self._pid_file()
        return last if last and is_alive(last.process) else None

    def _pid_file(self) -> _PidFile | None:
        text = _read(self.dir / "broker.pid")
        return _PidFile(**json.loads(text)) if text else None

    def _forget(self) -> None:
        if self._child:
            self._child.wait()
            self._child = None
        (self.dir / "broker.pid").unlink(missing_ok=True)

    def _bootstrap(self) -> str | None:
        port = settings.port_of(_read(self.dir / "server.properties"))
        return None if port is None else _address(port)

    def _cluster_id(self) -> str | None:
        return settings.cluster_id_of(_read(self._data / "meta.properties"))

    def _log_tail(self) -> str:
        for name in ("broker.out", settings.LOG_FILE):
            lines = _read(self.dir / name).splitlines()
            if lines:
                return "\n".join([f"The end of {self.dir / name}:", *(f"  {line}" for line in lines[-15:])])
        return f"It has written no log in {self.dir}."

    def _write(self, name: str, text: str) -> None:
        new = self.dir / f"{name}.new"
        new.write_text(text)
        os.replace(new, self.dir / name)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            lock = open(self.dir / "lock", "w")  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be used as the folder of a broker: {error.strerror}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _read(file: Path) -> str:
    """The text of a file; empty if the file is missing."""
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _address(port: int) -> str:
    return str(Address("127.0.0.1", port))


def new_cluster_id() -> str:
    # Kafka's form of a UUID. With a first byte below 0x80 it cannot start with a dash, like an option.
    raw = uuid.uuid4().bytes
    return base64.urlsafe_b64encode(bytes([raw[0] & 0x7F]) + raw[1:]).rstrip(b"=").decode()
