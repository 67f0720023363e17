"""The stack of `compose/compose.yaml`, from a copy of its folder, at ports of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from testcontainers.compose import DockerCompose

from replicator.address import Address
from replicator.local.ports import random_free_ports
from replicator.local.resp_connection import CommandFailed, RespConnection
from tests.doc_pages import ROOT
from tests.process_cluster import wait_for

CLUSTER = "shop"
NODES = ("n1", "n2", "n3")
BROKERS = ("kafka1", "kafka2", "kafka3")
PORTS = re.findall(r"^(\w+_PORT)=", (ROOT / "compose" / ".env").read_text(), re.MULTILINE)
COMMAND_S = 300
STACK_WAIT_S = 90  # longer than for processes: docker and Kafka start slowly


def missing() -> str | None:
    """Why the stack cannot be started on this machine; None if it can."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as error:
            return f"no container engine: `{' '.join(command)}` fails ({error})"
    config = subprocess.run(
        ["docker", "compose", "config", "--images"],
        cwd=ROOT / "compose",
        env={**os.environ, "COMPOSE_PROFILES": "full"},
        check=True,
        capture_output=True,
        text=True,
    )
    images = config.stdout.split()
    absent = [it for it in images if subprocess.run(["docker", "image", "inspect", it], capture_output=True).returncode]
    return f"no image {', '.join(absent)}: run tools/images/build" if absent else None


@dataclass(frozen=True, slots=True)
class Stack:
    folder: Path
    environment: dict[str, str]

    @property
    def password(self) -> str:
        return (self.folder / "secrets" / "node_password").read_text().strip()

    @property
    def ports(self) -> dict[str, int]:
        """Of Redis clients."""
        return {node: int(self.environment[f"{node.upper()}_PORT"]) for node in NODES}

    @property
    def bootstrap(self) -> str:
        return ",".join(f"127.0.0.1:{self.environment[f'{broker.upper()}_PORT']}" for broker in BROKERS)

    def docker(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
        )
        assert done.returncode == 0, f"docker {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def compose(self, *arguments: str) -> str:
        return self.docker("compose", *arguments)

    def execute(self, service: str, *command: str) -> str:
        return self.compose("exec", "-T", service, *command)

    def status(self, node: str) -> Any:
        return json.loads(self.execute(node, "replicator", "status", "--json"))

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def ask(self, node: str, *command: str) -> Any:
        """The reply of the node. Raises `CommandFailed`, `OSError`."""
        with RespConnection(Address("127.0.0.1", self.ports[node]), self.password, timeout_s=10) as connection:
            return connection.execute(*command)

    def leader(self, nodes: tuple[str, ...] = NODES) -> str:
        """The one of `nodes` that is leader; waits until there is one."""

        def found() -> str | None:
            for node in nodes:
                try:
                    if self.ask(node, "ROLE")[0] == b"master":
                        return node
                except (CommandFailed, OSError):
                    continue
            return None

        leader = wait_for(found, STACK_WAIT_S)
        assert leader is not None
        return leader

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        self.compose("pause", service)
        try:
            yield
        finally:
            self.compose("unpause", service)

    @contextmanager
    def cut_off(self, service: str) -> Iterator[None]:
        """Without a network, so also without its published ports."""
        network, container = f"{self.environment['COMPOSE_PROJECT_NAME']}_default", self.container(service)
        self.docker("network", "disconnect", network, container)
        try:
            yield
        finally:
            self.docker("network", "connect", "--alias", service, network, container)


def prepared(folder: Path, profile: str = "full") -> Stack:
    """A copy of the folder `compose`, whose files commands may change, with free ports."""
    shutil.copytree(ROOT / "compose", folder, ignore=shutil.ignore_patterns("wheels", "*_password"))
    ports = dict(zip(PORTS, map(str, random_free_ports(len(PORTS))), strict=True))
    project = f"replicator-test-{secrets.token_hex(4)}"
    environment = os.environ | ports | {"COMPOSE_PROJECT_NAME": project, "COMPOSE_PROFILES": profile}
    return Stack(folder, environment)


@contextmanager
def running(folder: Path, profile: str = "full") -> Iterator[Stack]:
    """The stack, once all services are healthy."""
    stack = prepared(folder, profile)
    (folder / "secrets").mkdir(exist_ok=True)
    for name in ("node", "postgres", "grafana"):
        (folder / "secrets" / f"{name}_password").write_text(secrets.token_hex(16))
    with patched(stack.environment), DockerCompose(folder, compose_file_name="compose.yaml", wait=True):
        yield stack


@contextmanager
def patched(environment: dict[str, str]) -> Iterator[None]:
    """testcontainers starts `docker` with the environment of this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield
