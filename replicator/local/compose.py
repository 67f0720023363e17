"""A new replica in a container, beside those of `compose/compose.yaml`: a service in a file of its own.

Docker Compose runs all: the files are for people, who may edit them, and `docker compose` in the same folder knows the
new service from then on.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.address import Address
from replicator.config import checked_node_id, checked_upstream
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import listed_snapshot
from replicator.local.cluster import Origin
from replicator.local.progress import ProgressReporter
from replicator.position import LEADER
from replicator.records.types import Mode
from replicator.snapshots.listing import first_verified, of_first_log, usable

HTTP_PORT = 8001  # of the image
NODE_DIR = "/var/lib/replicator/node"  # REPLICATOR_NODE_DIR of the image
PROMETHEUS = Path("prometheus", "prometheus.yml")  # in the folder of compose.yaml
READY_S = 600
# Beside compose.yaml, Docker Compose reads the first of these that exists, unless COMPOSE_FILE is set.
OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
_ID, _CLUSTER, _RESP = "REPLICATOR_NODE_ID", "REPLICATOR_NODE_CLUSTER", "REPLICATOR_NODE_RESP"

Docker = Callable[[Sequence[str]], str]
"""Runs `docker` with arguments, and returns what it prints. Raises `ComposeFailed`."""


class ComposeFailed(ReplicatorError):
    pass


def run_docker(arguments: Sequence[str]) -> str:
    """In the current folder, as `docker compose` looks for its files there. Raises `ComposeFailed`."""
    try:
        done = subprocess.run(["docker", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError:
        raise ComposeFailed("docker is not installed: install Docker with Compose 2.24.4 or newer") from None
    if done.returncode:
        why = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ComposeFailed(f"`docker {' '.join(arguments)}` has failed: {why[-1] if why else done.returncode}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class ComposeReplica:
    """What is asked for."""

    id: str
    origin: Origin
    snapshot_name: str | None
    mode: Mode
    upstream: str = LEADER


def add_replica(
    wanted: ComposeReplica, folder: Path, progress: ProgressReporter, docker: Docker = run_docker
) -> Address:
    """Start the replica, and return where it serves once it is ready. `folder`: that of `compose.yaml`.

    Raises `ConfigError` (no such project, the name is taken, no such snapshot, other files are set), `ComposeFailed`.
    """
    id, upstream = checked_node_id("node.id", wanted.id), checked_upstream(wanted.upstream, wanted.id)
    base = folder / "compose.yaml"
    if not base.is_file():
        raise ConfigError(f"there is no compose.yaml in {folder}: go to the folder compose of this project first")
    if "COMPOSE_FILE" in os.environ:
        raise ConfigError(
            f"COMPOSE_FILE is set in the environment, and hides the new replica, which .env in {folder} will name: "
            "unset it; files that you need can be named in that .env"
        )
    config = json.loads(docker(["compose", "config", "--format", "json"]))
    nodes = _nodes(config)
    templates = json.loads(docker(["compose", "--file", base.name, "config", "--format", "json"]))["services"]
    template = next((name for name in nodes if name in templates), None)  # others may extend services themselves
    if template is None:
        raise _no_node()
    if id in config["services"]:
        raise ConfigError(f"{base} already has a service {id}: choose another name")
    file = folder / f"compose.{id}.yaml"
    if file.exists():
        raise ConfigError(f"{file} is left from another replica {id}: delete it, or choose another name")
    files = [*_files(folder), file.name]
    compose = ["compose", *(word for name in files for word in ("--file", name))]
    resp = 1 + max(Address.parse(node[_RESP]).port for node in nodes.values())
    http = 1 + max(_published(config, HTTP_PORT), default=HTTP_PORT)
    settings = nodes[template]
    priority = len(nodes) + 1
    file.write_text(_service(id, template=template, resp=resp, http=http, priority=priority, upstream=upstream))
    try:
        run = [*compose, "run", "--rm", "--no-deps", "--env", "REPLICATOR_CONNECT=", id]
        name = wanted.snapshot_name or _newest(wanted.origin, docker, run, settings)
        if name is not None:
            progress.step(f"restoring snapshot {name}")
            docker([*run, "snapshot", "restore", name, "--repository", _repository(settings), "--to", NODE_DIR])
    except (ReplicatorError, KeyboardInterrupt):
        file.unlink()
        raise
    try:
        progress.step(f"starting {id}")
        docker([*compose, "up", "--detach", "--no-deps", "--wait", "--wait-timeout", str(READY_S), id])
        if wanted.mode is not Mode.ASYNC:
            docker([*compose, "exec", "-T", id, "replicator", "replica", "set-mode", id, wanted.mode.value])
    except (ReplicatorError, KeyboardInterrupt):
        progress.notice(f"{file} stays: `docker compose --file compose.yaml --file {file.name} logs {id}` may say more")
        raise
    _remember(folder, files)
    if (folder / PROMETHEUS).exists():
        progress.notice(
            f"Prometheus does not scrape {id} yet: add {id}:{HTTP_PORT} to the job replicator in {PROMETHEUS}, and "
            "send it SIGHUP (`docker compose kill --signal SIGHUP prometheus`)"
        )
    progress.notice(f"{id} may become leader: add {id} to /etc/hosts where the other nodes are, and to your clients")
    return Address("127.0.0.1", resp)


def _nodes(config: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The environment of each service that is a node with a Redis port. Raises `ConfigError` if there is none."""
    environments = {name: service.get("environment") or {} for name, service in sorted(config["services"].items())}
    nodes = {name: it for name, it in environments.items() if {_ID, _CLUSTER, _RESP} <= it.keys()}
    if not nodes:
        raise _no_node()
    return nodes


def _no_node() -> ConfigError:
    return ConfigError(f"no service of compose.yaml has {_ID}, {_CLUSTER} and {_RESP}: add a replica by hand")


def _published(config: Mapping[str, Any], target: int) -> list[int]:
    """The ports of this machine that lead to that port of a container."""
    ports = [port for service in config["services"].values() for port in service.get("ports") or ()]
    return [int(port["published"]) for port in ports if port["target"] == target and port.get("published")]


def _repository(settings: Mapping[str, str]) -> str:
    """That of a node. Raises `ConfigError` if it has none."""
    repository = settings.get("REPLICATOR_SNAPSHOTS_REPOSITORY")
    if not repository:
        raise ConfigError("the nodes have no REPLICATOR_SNAPSHOTS_REPOSITORY in common: use --from-log")
    return repository


def _newest(origin: Origin, docker: Docker, run: Sequence[str], settings: Mapping[str, str]) -> str | None:
    """The snapshot to start from, of the same log as the newest; None: the log. Raises `ConfigError` if there must be
    one.
    """
    if origin is Origin.LOG:
        return None
    repository = _repository(settings)
    listed = json.loads(docker([*run, "snapshot", "list", "--json", "--repository", repository]))
    cluster = settings[_CLUSTER]
    ours = [it for it in map(listed_snapshot, listed) if it.manifest.cluster == cluster]
    found = usable(of_first_log(ours), cluster)
    chosen = first_verified(found) if origin is Origin.VERIFIED else next(iter(found), None)
    if chosen is not None:
        return chosen.manifest.name
    if origin is Origin.SNAPSHOT:
        raise ConfigError(f"there is no snapshot in {repository}: take one with `replicator snapshot take`")
    return None


def _service(id: str, *, template: str, resp: int, http: int, priority: int, upstream: str) -> str:
    return f"""\
# Written by `replicator replica add {id} --compose`. To remove it:
#   docker compose exec {template} replicator replica remove {id}
#   docker compose rm --stop --force {id}
# then remove its volume, this file, and its name in .env.
services:
  {id}:
    extends: {{ file: compose.yaml, service: {template} }}
    ports: !override ["127.0.0.1:{resp}:{resp}", "127.0.0.1:{http}:{HTTP_PORT}"]
    volumes: ["{id}:/var/lib/replicator"]
    environment:
      REPLICATOR_NODE_ID: {id}
      REPLICATOR_NODE_ADVERTISE: {id}
      REPLICATOR_NODE_PRIORITY: {priority}
      REPLICATOR_NODE_RESP: 0.0.0.0:{resp}
      REPLICATOR_NODE_UPSTREAM: {upstream}

volumes: {{ {id}: }}
"""


def _files(folder: Path) -> list[str]:
    """Those that `.env` names; without any, those that Docker Compose reads by default."""
    for line in _settings(folder):
        name, _, value = line.partition("=")
        if name.strip() == "COMPOSE_FILE" and value.strip():
            return value.strip().split(":")
    return ["compose.yaml", *[name for name in OVERRIDES if (folder / name).exists()][:1]]


def _settings(folder: Path) -> list[str]:
    file = folder / ".env"
    return file.read_text().splitlines() if file.exists() else []


def _remember(folder: Path, files: Sequence[str]) -> None:
    """So that `docker compose` in this folder knows the service."""
    lines = [line for line in _settings(folder) if line.partition("=")[0].strip() != "COMPOSE_FILE"]
    (folder / ".env").write_text("\n".join([*lines, f"COMPOSE_FILE={':'.join(files)}"]) + "\n")
