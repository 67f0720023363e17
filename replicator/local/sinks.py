"""The sinks of a cluster that run on this machine.

DIR/sinks/NAME.json         the settings, the process, and the last report: written every second by the process
         /NAME.lock         locked by the process of the sink; contains its pid
         /NAME.paused       while the sink is to pause
         /NAME.checkpoint   of a target that cannot store it
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from replicator.address import Address
from replicator.config import checked_name
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.process import ProcessIdentity, identify, is_alive
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.build import build_sink
from replicator.stream.sinks.metrics import SinkMetrics, serve_metrics
from replicator.stream.sinks.report import SinkReport, SinkState
from replicator.stream.sinks.runner import BatchLimits, OpenSource, RunControl, SinkRunner
from replicator.stream.sinks.settings import SinkSettings, Target, TargetOptions, parse_maps
from replicator.stream.sinks.source import SinkChangeStream

SAVE_S = 1.0
_ENDED = {SinkState.STOPPED, SinkState.FAILED, SinkState.KILLED}


@dataclass(frozen=True, slots=True)
class SinkFile:
    """The contents of `NAME.json`."""

    settings: SinkSettings
    report: SinkReport
    has_begun: bool  # so there may be a checkpoint, and the settings may not change
    process: ProcessIdentity | None = None
    updated_ms: int = 0  # since 1970

    def as_json(self) -> dict[str, Any]:
        report = asdict(self.report)
        report["position"] = self.report.position and self.report.position.as_json()
        return {
            "settings": self.settings.as_json(),
            "report": report,
            "has_begun": self.has_begun,
            "process": self.process and asdict(self.process),
            "updated_ms": self.updated_ms,
        }

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> SinkFile:
        """Raises `ConfigError`, `KeyError`, `TypeError` or `ValueError`."""
        report, process = dict(fields["report"]), fields["process"]
        position = report.pop("position")
        return cls(
            SinkSettings.from_json(fields["settings"]),
            SinkReport(SinkState(report.pop("state")), position and StreamPosition.from_json(position), **report),
            fields["has_begun"],
            process and ProcessIdentity(**process),
            fields["updated_ms"],
        )


class SinkFolder:
    def __init__(self, dir: Path) -> None:
        """`dir`: of the cluster."""
        self.dir = dir.absolute() / "sinks"

    def names(self) -> list[str]:
        return sorted(path.name.removesuffix(".json") for path in self.dir.glob("*.json"))

    def load(self, name: str) -> SinkFile:
        """As of now: a process that has ended without a report is `killed`. Raises `ConfigError`."""
        file = self.load_or_none(name)
        if file is None:
            known = ", ".join(self.names()) or "none"
            raise ConfigError(f"there is no sink {name} in {self.dir} ({known}): `replicator sink run` creates one")
        return file

    def load_or_none(self, name: str) -> SinkFile | None:
        """Raises `ConfigError`."""
        path = self._path(name, "json")
        try:
            file = SinkFile.from_json(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, ConfigError) as error:
            raise ConfigError(f"{path} cannot be read ({error!r}): restore it, or delete it") from error
        if file.report.state not in _ENDED and not (file.process and is_alive(file.process)):
            return replace(file, report=replace(file.report, state=SinkState.KILLED, changes_per_s=0.0))
        return file

    def save(self, file: SinkFile) -> None:
        """Raises `ConfigError`."""
        path = self._path(file.settings.name, "json")
        new = path.with_name(path.name + ".new")
        try:
            new.write_text(json.dumps(file.as_json(), indent=2) + "\n")
            os.replace(new, path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror}): choose another --dir") from error

    def delete(self, name: str) -> None:
        """The lock stays: another process may wait for it."""
        for suffix in ("json", "paused"):
            self._path(name, suffix).unlink(missing_ok=True)

    def set_paused(self, name: str, paused: bool) -> None:
        """The running process sees it at once, and one that is started later, too. Raises `ConfigError`."""
        self.load(name)
        path = self._path(name, "paused")
        try:
            if paused:
                path.touch()
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error.strerror})") from error

    def is_paused(self, name: str) -> bool:
        return self._path(name, "paused").exists()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """No other process runs or resets the sink meanwhile. Raises `ConfigError`."""
        path = self._path(name, "lock")
        try:
            self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be used ({error.strerror}): choose another --dir") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                raise ConfigError(f"sink {name} is running (process {holder}): stop it first") from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _path(self, name: str, suffix: str) -> Path:
        return self.dir / f"{checked_name('name of a sink', name)}.{suffix}"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Of one run of a sink: they may be others in the next one."""

    limits: BatchLimits
    target: TargetOptions
    metrics: Address | None = None
    once: bool = False  # end when all that is published is written


def settings_for_run(
    folder: SinkFolder,
    name: str,
    cluster: str,
    target: str | None,
    maps: Sequence[str],
    columns: Sequence[str],
    dead_letters: Path | None,
) -> SinkSettings:
    """Those of the command line; what it leaves out is as in the run before, unless the target is another.

    Raises `ConfigError`.
    """
    file = folder.load_or_none(name)
    if file is None and target is None:
        raise ConfigError(f"there is no sink {name} yet: name its target, such as jsonl:changes.jsonl")
    letters = str(dead_letters.absolute()) if dead_letters else None
    before = None if file is None else file.settings
    if before is not None and (target is None or Target.parse(target) == before.target):
        patterns = [f"{it.pattern}={it.table}" for it in before.maps]
        table_maps = parse_maps(maps or patterns, columns) if maps or columns else before.maps
        return SinkSettings(name, cluster, before.target, table_maps, letters or before.dead_letters)
    assert target is not None
    return SinkSettings(name, cluster, Target.parse(target), parse_maps(maps, columns), letters)


def run_sink(
    folder: SinkFolder,
    settings: SinkSettings,
    kafka: KafkaAccess,
    options: RunOptions,
    show: Callable[[SinkReport], None],
    control: RunControl,
) -> None:
    """Until `control` stops it. Raises as `SinkRunner.run`, and `ConfigError`."""

    def open_source(start: StreamPosition | None) -> SinkChangeStream:
        return SinkChangeStream(kafka, f"sink-{settings.name}", start)

    run_sink_on(folder, settings, open_source, options, show, control)


def run_sink_on(
    folder: SinkFolder,
    settings: SinkSettings,
    open_source: OpenSource,
    options: RunOptions,
    show: Callable[[SinkReport], None],
    control: RunControl,
) -> None:
    """As `run_sink`, from any source of changes."""
    name = settings.name
    with ExitStack() as stack:
        stack.enter_context(folder.lock(name))
        before = folder.load_or_none(name)
        check_unchanged(before, settings)
        sink = build_sink(settings, folder.dir, options.target)
        status = _StatusFile(folder, settings, show, has_begun=before is not None and before.has_begun)
        if options.metrics is not None:
            stack.callback(serve_metrics(options.metrics, SinkMetrics(name, lambda: status.latest)))
        SinkRunner(name, sink, open_source, control, status.report, options.limits, once=options.once).run()


def check_unchanged(file: SinkFile | None, settings: SinkSettings) -> None:
    """Raises `ConfigError`."""
    if file is None or not file.has_begun:
        return
    known = file.settings
    for what, old, new in (
        ("cluster", known.cluster, settings.cluster),
        ("target", str(known.target), str(settings.target)),
        ("map", *(" ".join(map(str, it.maps)) for it in (known, settings))),
    ):
        if old != new:
            raise ConfigError(
                f"sink {settings.name} has begun with another {what} ({old}): use it, another name, or "
                f"`replicator sink reset {settings.name}` first"
            )


def reset_sink(folder: SinkFolder, name: str, *, delete: bool = False) -> SinkFile:
    """Delete its checkpoint; `delete`: also the sink. Raises `ConfigError`, `SinkUnavailable`, `SinkFailed`."""
    file = folder.load(name)
    with folder.lock(name):
        build_sink(file.settings, folder.dir, TargetOptions()).delete_checkpoint()
        if delete:
            folder.delete(name)
            return file
        file = SinkFile(file.settings, SinkReport(SinkState.STOPPED, None), has_begun=False, updated_ms=_now_ms())
        folder.save(file)
    return file


class _StatusFile:
    """Writes the reports of this process at most every second, and each change of the state at once."""

    def __init__(
        self, folder: SinkFolder, settings: SinkSettings, show: Callable[[SinkReport], None], *, has_begun: bool
    ) -> None:
        self._has_begun = has_begun
        self.latest = SinkReport(SinkState.STARTING, None)
        self._folder = folder
        self._settings = settings
        self._show = show
        self._process = identify(os.getpid())
        self._saved_s: float | None = None

    def report(self, report: SinkReport) -> None:
        now_s = time.monotonic()
        is_due = self._saved_s is None or now_s - self._saved_s >= SAVE_S or report.state is not self.latest.state
        self.latest = report
        self._has_begun |= report.position is not None
        if is_due:
            self._saved_s = now_s
            try:
                self._folder.save(SinkFile(self._settings, report, self._has_begun, self._process, _now_ms()))
            except ReplicatorError:
                if report.state is SinkState.STARTING:
                    raise  # later, a status that cannot be written does not stop the sink
        self._show(report)


def _now_ms() -> int:
    return int(time.time() * 1000)
