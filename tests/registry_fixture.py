"""A real schema registry: Apicurio, from Maven Central, with the API of Confluent's."""

from __future__ import annotations

import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.local.kafka.java import find_java
from replicator.local.ports import random_free_port
from tests.process_cluster import wait_for

GROUP, ARTIFACT, VERSION = "io.apicurio", "apicurio-registry-app", "2.6.13.Final"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL. It keeps schemas in memory."""
    from jgo.maven import MavenContext

    component = MavenContext().project(GROUP, ARTIFACT).at_version(VERSION)
    folder = tmp_path_factory.mktemp("registry")
    with tarfile.open(component.artifact(classifier="all", packaging="tar.gz").resolve()) as archive:
        archive.extractall(folder, filter="data")
    port = random_free_port()
    listen = (f"-Dquarkus.http.port={port}", "-Dquarkus.http.host=127.0.0.1")
    program = folder / f"{ARTIFACT}-{VERSION}-runner.jar"
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [find_java(), "-Xmx400m", *listen, "-jar", program], cwd=folder, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
    try:
        wait_for(lambda: answers(url, process, folder / "log"))
        yield url
    finally:
        process.terminate()
        process.wait()


def answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()[-2000:]
    try:
        with urllib.request.urlopen(f"{url}/subjects", timeout=5):
            return True
    except OSError:
        return False
