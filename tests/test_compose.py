"""The compose stack as files, and `replicator replica add --compose` with a `docker` that is not there."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator import __version__
from replicator.address import Address
from replicator.errors import ConfigError
from replicator.local.cluster import Origin
from replicator.local.compose import ComposeFailed, ComposeReplica, add_replica
from replicator.local.kafka.jars import KAFKA_VERSION
from replicator.local.progress import NoProgress
from replicator.node.snapshots import ListedSnapshot
from replicator.records.types import Mode
from replicator.store.snapshot import Manifest
from tests.doc_pages import ROOT, blocks

FOLDER = ROOT / "compose"
TEXT = (FOLDER / "compose.yaml").read_text()
STACK = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = STACK["services"]
N4 = ComposeReplica("n4", Origin.VERIFIED, None, Mode.ASYNC)


def test_the_images_are_those_of_this_version() -> None:
    assert SERVICES["kafka1"]["image"] == f"apache/kafka:{KAFKA_VERSION}"
    assert SERVICES["n1"]["image"] == f"${{REPLICATOR_IMAGE:-replicator:{__version__}}}"


def test_each_port_is_set_once() -> None:
    settings = re.findall(r"^(\w+_PORT)=\d+$", (FOLDER / ".env").read_text(), re.MULTILINE)
    assert set(re.findall(r"\$\{(\w+_PORT)\b", TEXT)) == set(settings)
    assert set(re.findall(r"\$\{\w+_PORT\b([^}]*)\}", TEXT)) == {":?"}  # required: no defaults beside those


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_service_is_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"] and service["logging"]["options"] and service["cap_drop"] == ["ALL"]
    assert service.get("read_only") or name.startswith("kafka")  # its image writes its settings into its own folders


def test_the_lock_has_all_that_the_image_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = (project["optional-dependencies"][name] for name in ("client", "postgres", "registry", "s3"))
    needed = [*project["dependencies"], *(it for some in extras for it in some)]
    lock = (FOLDER / "requirements.txt").read_text()
    pinned = set(re.findall(r"^([\w.-]+)==[^\n]* \\\n    --hash=", lock, re.MULTILINE))
    assert {re.split(r"[\[>=<]", it)[0].lower() for it in needed} <= pinned


def test_prometheus_scrapes_services_of_the_stack() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {it for job in jobs for some in job["static_configs"] for it in some["targets"]}
    assert targets == {f"{name}:8001" for name in ("n1", "n2", "n3", "snapshotter", "sink")}


class Notices(NoProgress):
    def __init__(self) -> None:
        self.notices: list[str] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)


class FakeDocker:
    """Compose as it answers for this stack; `snapshots` are those of the repository, the newest first.

    `added`: nodes of other files, from 4 on.
    """

    def __init__(
        self,
        snapshots: Sequence[dict[str, Any]] = (),
        fails: str = "nothing",
        error: BaseException | None = None,
        added: Sequence[str] = (),
    ) -> None:
        self.commands: list[str] = []
        self._snapshots = snapshots
        self._fails = fails
        self._added = added
        self._error = error or ComposeFailed(f"`docker … {fails}` has failed")

    def __call__(self, arguments: Sequence[str]) -> str:
        command = " ".join(arguments)
        self.commands.append(command)
        if self._fails in command:
            raise self._error
        if "config" in arguments:
            names = ("n1", "n2", "n3", *(() if "--file" in arguments else self._added))
            nodes = {
                name: {
                    "environment": {**SERVICES["n1"]["environment"], "REPLICATOR_NODE_RESP": f"0.0.0.0:700{number}"},
                    "ports": [{"target": 8001, "published": f"800{number}"}],
                }
                for number, name in enumerate(names, 1)
            }
            return json.dumps({"services": {**nodes, "postgres": {}}})
        return json.dumps(self._snapshots) if "list" in arguments else ""


def listed_as(
    name: str,
    *,
    verified_at_ms: int | None = None,
    failure: str = "",
    cluster: str = "shop",
    log: str = "topic",
) -> dict[str, Any]:
    """As `replicator snapshot list --json` prints it."""
    manifest = Manifest(name, cluster, log, "", 0, 0, 0, "", "", 0, 0, "", 0)
    return ListedSnapshot(manifest, verified_at_ms, failure).as_json()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COMPOSE_FILE", raising=False)
    (tmp_path / "compose.yaml").write_text(TEXT)
    (tmp_path / ".env").write_text("COMPOSE_PROFILES=full\nN1_PORT=7001\n")
    return tmp_path


def test_a_replica_starts_from_the_newest_verified_snapshot(folder: Path) -> None:
    docker = FakeDocker(
        [
            listed_as("foreign", verified_at_ms=1, cluster="other"),
            listed_as("new"),
            listed_as("old", verified_at_ms=1),
        ]
    )
    assert add_replica(N4, folder, NoProgress(), docker) == Address("127.0.0.1", 7004)
    both = "compose --file compose.yaml --file compose.n4.yaml"
    run = f"{both} run --rm --no-deps --env REPLICATOR_CONNECT= n4 snapshot"
    assert docker.commands == [
        "compose config --format json",
        "compose --file compose.yaml config --format json",
        f"{run} list --json --repository /snapshots",
        f"{run} restore old --repository /snapshots --to /var/lib/replicator/node",
        f"{both} up --detach --no-deps --wait --wait-timeout 600 n4",
    ]
    assert (folder / ".env").read_text() == (
        "COMPOSE_PROFILES=full\nN1_PORT=7001\nCOMPOSE_FILE=compose.yaml:compose.n4.yaml\n"
    )


def test_a_snapshot_whose_verification_has_failed_is_not_restored(folder: Path) -> None:
    docker = FakeDocker([listed_as("damaged", failure="digest: …"), listed_as("good")])
    add_replica(ComposeReplica("n4", Origin.SNAPSHOT, None, Mode.ASYNC), folder, NoProgress(), docker)
    assert "restore good" in docker.commands[3]


def test_prometheus_must_be_told(folder: Path) -> None:
    progress = Notices()
    add_replica(N4, folder, progress, FakeDocker())
    [notice] = progress.notices
    assert "n4 may become leader" in notice
    (folder / "prometheus").mkdir()
    (folder / "prometheus" / "prometheus.yml").touch()
    add_replica(ComposeReplica("n5", Origin.LOG, None, Mode.ASYNC), folder, progress, FakeDocker())
    _, notice, _ = progress.notices
    assert "add n5:8001 to the job replicator in prometheus/prometheus.yml" in notice


@pytest.mark.parametrize("name", ["compose.override.yaml", "docker-compose.override.yml"])
def test_an_override_file_stays_in_effect(folder: Path, name: str) -> None:
    """Docker Compose reads it by itself only while COMPOSE_FILE is not set."""
    (folder / name).write_text("services: { n1: { mem_limit: 4g } }\n")
    (folder / "docker-compose.override.yaml").write_text("services: {}\n")  # another one is not read
    docker = FakeDocker()
    add_replica(N4, folder, NoProgress(), docker)
    assert f"COMPOSE_FILE=compose.yaml:{name}:compose.n4.yaml\n" in (folder / ".env").read_text()
    assert docker.commands[-1].startswith(f"compose --file compose.yaml --file {name} --file compose.n4.yaml up ")


def test_other_files_in_the_environment_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_FILE", "compose.yaml:other.yaml")
    docker = FakeDocker()
    with pytest.raises(ConfigError, match=r"COMPOSE_FILE is set in the environment.*: unset it"):
        add_replica(N4, folder, NoProgress(), docker)
    assert not docker.commands


def test_a_replica_is_like_a_service_of_compose_yaml_not_of_another_file(folder: Path) -> None:
    """The service of another file would need the volume that only this file has."""
    add_replica(ComposeReplica("b5", Origin.LOG, None, Mode.ASYNC), folder, NoProgress(), FakeDocker(added=["a4"]))
    written = yaml.safe_load((folder / "compose.b5.yaml").read_text().replace("!override", ""))["services"]["b5"]
    assert written["extends"] == {"file": "compose.yaml", "service": "n1"}
    assert written["environment"]["REPLICATOR_NODE_RESP"] == "0.0.0.0:7005"


@pytest.mark.parametrize(("origin", "ran"), [(Origin.VERIFIED, "up"), (Origin.SNAPSHOT, "restore new")])
def test_a_snapshot_of_a_former_log_is_not_restored(folder: Path, origin: Origin, ran: str) -> None:
    docker = FakeDocker([listed_as("new"), listed_as("old", log="former", verified_at_ms=1)])
    add_replica(ComposeReplica("n4", origin, None, Mode.ASYNC), folder, NoProgress(), docker)
    assert f" {ran} " in docker.commands[3]
    assert not any("restore old" in command for command in docker.commands)


def test_the_file_of_a_replica_is_the_one_that_the_readme_shows(folder: Path) -> None:
    add_replica(N4, folder, NoProgress(), FakeDocker())
    written = "".join(re.sub(r"^#.*\n", "", (folder / "compose.n4.yaml").read_text(), flags=re.MULTILINE))
    assert written in [block.text for block in blocks(FOLDER / "README.md") if block.language == "yaml"]


@pytest.mark.parametrize(
    ("wanted", "commands"),
    [
        (ComposeReplica("n4", Origin.LOG, None, Mode.ASYNC), ["up"]),
        (
            ComposeReplica("n4", Origin.VERIFIED, None, Mode.SYNC),
            ["list", "up", "set-mode n4 sync"],
        ),
        (ComposeReplica("n4", Origin.VERIFIED, "chosen", Mode.ASYNC), ["restore chosen", "up"]),
    ],
)
def test_the_source_and_the_mode_of_a_replica(folder: Path, wanted: ComposeReplica, commands: list[str]) -> None:
    docker = FakeDocker()
    add_replica(wanted, folder, NoProgress(), docker)
    ran = [command for command in docker.commands if " config " not in command]
    assert len(ran) == len(commands)
    assert all(some in command for some, command in zip(commands, ran, strict=True))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (ComposeReplica("n1", Origin.LOG, None, Mode.ASYNC), "already has a service n1"),
        (ComposeReplica("../n4", Origin.LOG, None, Mode.ASYNC), "node.id"),
        (ComposeReplica("n4", Origin.SNAPSHOT, None, Mode.ASYNC), "there is no snapshot in /snapshots"),
    ],
)
def test_replicas_that_are_refused(folder: Path, wanted: ComposeReplica, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_replica(wanted, folder, NoProgress(), FakeDocker())


@pytest.mark.parametrize("error", [ComposeFailed("restore lost"), KeyboardInterrupt()], ids=repr)
def test_a_snapshot_that_is_not_restored_leaves_nothing(folder: Path, error: BaseException) -> None:
    chosen = ComposeReplica("n4", Origin.VERIFIED, "lost", Mode.ASYNC)
    with pytest.raises(type(error)):
        add_replica(chosen, folder, NoProgress(), FakeDocker(fails="restore lost", error=error))
    assert not (folder / "compose.n4.yaml").exists()


def test_a_folder_without_a_stack(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no compose\.yaml in"):
        add_replica(N4, tmp_path, NoProgress(), FakeDocker())


def test_a_replica_that_does_not_start_is_not_remembered(folder: Path) -> None:
    progress = Notices()
    with pytest.raises(ComposeFailed, match=" up "):
        add_replica(N4, folder, progress, FakeDocker(fails=" up "))
    assert "COMPOSE_FILE" not in (folder / ".env").read_text()
    assert "logs n4" in progress.notices[0]
    with pytest.raises(ConfigError, match="is left from another replica n4: delete it"):
        add_replica(N4, folder, progress, FakeDocker())
