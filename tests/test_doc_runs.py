"""The commands of the documentation are run, page by page and line by line, on real processes and a real Kafka.

What a page shows as output must be printed, but for numbers. Ports, the cluster's name and Kafka's address are those of
the test. `NOT_RUN` lists the commands that are not run, and `NOT_RUN_PAGES` the pages, with the reason.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replicator.local.ports import HTTP_ABOVE_RESP, free_base_port
from tests.doc_pages import DOCS, INDENTED, PAGES, ROOT, Block, blocks, commands

NODES = 5
SHOWN_PORT, SHOWN_HOME = 7001, "/home/ada/replicator"
CLUSTER_PAGES = ["concepts.md", "modes.md", "operations.md", "snapshots.md", "stream.md", "sinks.md", "recovery.md"]
"""They have no `cluster up` of their own: a cluster of three nodes runs already."""
RUN = [ROOT / "README.md", DOCS / "index.md", DOCS / "quick-start.md", *(DOCS / name for name in CLUSTER_PAGES)]

NOT_RUN = {
    r"make demo": "installs packages and a Kafka of its own; its steps are those of quick-start.md and test_cluster.py",
    r"python3 -m venv .*": "installs packages: the tests run in such an environment",
    r"kcat .*": "kcat need not be installed",
    r".*\| jq .*": "jq need not be installed",
    r"(PGPASSWORD=\S+ )?replicator sink run \w+ (postgres|parquet|http).*": "see test_sink_postgres.py and others",
    r".* s3://backups/shop.*": "the bucket is an example: see test_snapshot_repository.py",
    r"replicator cluster restore .*": "needs a stopped cluster (test_cluster_restore.py)",
    r"replicator node stop n[123]": "before `cluster restore`",
    r"replicator snapshot delete .*": "the name is an example (test_snapshots.py)",
    r"replicator snapshot open .*": "runs until Ctrl-C (test_past_view.py)",
    r"redis-cli -p 7100 .*": "a client of such a view",
    r".*1f…:4711.*": "the token is an example",
    r"replicator broker status --dir replicator-data/broker": "the cluster of the test uses a Kafka of all tests",
    r"replicator doctor --bootstrap kafka:9093 .*": "the Kafka is an example (test_secured_kafka.py)",
}
NOT_RUN_PAGES = {
    "CHANGELOG.md": "has no commands",
    "architecture.md": "has no commands",
    "benchmarks.md": "measurements that take minutes; test_bench.py and test_chaos.py run them in short",
    "cli.md": "the examples of each command, which are parsed (test_doc_commands.py) and not a sequence",
    "client.md": "Python only, run by test_client_doc.py",
    "compatibility.md": "has no commands in blocks",
    "configuration.md": "has no commands in blocks",
    "deployment.md": "run by test_deployment.py",
    "faq.md": "has no commands",
    "http-api.md": "run by test_openapi.py",
    "leadership.md": "has no commands",
    "log.md": "the consumer is run by test_log_doc.py",
    "metrics.md": "has no commands",
    "native-core.md": "has no commands",
    "procedures.md": "run by test_procedures.py",
    "redis.md": "the clients of test_sentinel_failover.py; REPL.ONCE in test_once.py",
    "runbook.md": "rehearsed by tests of its own",
    "sql.md": "Python by test_sql_doc.py, the commands by test_sql_cli.py",
    "scaling.md": "its replicas are added by test_cascade_cluster.py, its plot is made by test_spread.py",
}
EXIT_CODES = {
    ("quick-start.md", "redis-cli -p 7002 set greeting hi"): 1,  # at a follower
    ("quick-start.md", "replicator status"): 1,  # the killed node does not serve
}
SHOWN_IN_FULL = ("quick-start.md", "replicator status")
ELECTION_MS = 4_000
OWN_KAFKA = {"stopped Kafka"}  # printed only if Kafka was started by `cluster up`


@dataclass(slots=True)
class Shell:
    """Runs commands in a folder of their own."""

    home: Path
    bootstrap: str
    name: str = field(default_factory=lambda: f"d-{uuid.uuid4().hex[:8]}")
    base_port: int = field(default_factory=lambda: free_base_port(NODES))
    is_up: bool = False

    def __post_init__(self) -> None:
        program = self.home / "bin" / "replicator"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m replicator "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def start(self, command: str) -> str:
        """`cluster up`, so that n1 is leader, as pages suppose, and stays it while other tests load the machine."""
        options = f"--bootstrap {self.bootstrap} --base-port {self.base_port} --name {self.name}"
        printed = self.run(f"{command} {options}")
        self.run(f"replicator cluster timing --election-ms {ELECTION_MS}")
        self.is_up = True
        if not re.search(r"^n1 +leader ", printed, re.MULTILINE):  # another process was faster to claim
            self.run("replicator replica promote n1")
            printed = re.sub(r"\(handover: .*?\)", "(first: the log was empty)", self.run("replicator status"))
        return printed

    def run(self, command: str, code: int = 0) -> str:
        """What it prints."""
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", self.here(command)],
            cwd=self.home,
            env={
                **os.environ,
                "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "120",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def here(self, command: str) -> str:
        """The command with the ports of this cluster."""
        for index in range(NODES):
            for above in (0, HTTP_ABOVE_RESP):
                command = re.sub(rf"\b{SHOWN_PORT + above + index}\b", str(self.base_port + above + index), command)
        command = command.replace("redis-cli ", "redis-cli -e ")  # an error is an exit code
        return command.replace("curl ", "curl --silent --show-error --fail-with-body ")

    def comparable(self, output: str) -> list[str]:
        """Its lines, with the folder and the name that the page shows, and without other numbers than ids of nodes."""
        output = output.replace(str(self.home), SHOWN_HOME).replace(self.name, "replicator")
        output = re.sub(r"\b[\d.]+ (?:[KM]i)?B\b", "# B", output)
        output = re.sub(r"\b[0-9a-f]{8}\b|(?<!\bn)\d+", "#", output)  # the ids of nodes stay
        output = re.sub(r"\bserving .*", "serving", output)  # source and lag may be others by now
        output = re.sub(r", (?:lease left # ms|idle)$", "", output, flags=re.MULTILINE)  # idle after some time
        return [" ".join(re.sub("─+", "", line).split()) for line in output.splitlines()]


@pytest.fixture
def shell(kafka: str, tmp_path: Path) -> Iterator[Shell]:
    for program, package in (("redis-cli", "redis-tools"), ("curl", "curl")):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed (Debian: {package})")
    shell = Shell(tmp_path.resolve(), kafka)
    yield shell
    if (shell.home / "replicator-data").exists():
        shell.run("replicator cluster down --purge")


def reason_not_to_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, command)), None)


def play(shell: Shell, page: Path) -> list[str]:
    """Runs the commands of a page in their order, and returns them."""
    played, printed, last = [], "", ""
    for block in blocks(page):
        lines = commands(block)
        if lines:
            printed, last = "", lines[-1]
        for line in lines:
            if reason_not_to_run(line) is None:
                if line.startswith("replicator cluster up") and not shell.is_up:
                    printed += shell.start(line)
                else:
                    printed += shell.run(line, EXIT_CODES.get((page.name, line), 0))
                played.append(line)
        if block.language == "text":
            expected = [it for it in shell.comparable(block.text) if it not in OWN_KAFKA]
            missing = [it for it in expected if it not in shell.comparable(printed)]
            assert missing == [], f"{page.name} shows what is not printed:\n{printed}"
            if (page.name, last) == SHOWN_IN_FULL:
                assert expected == shell.comparable(printed), f"{page.name} does not show all of:\n{printed}"
    return played


@pytest.mark.kafka
@pytest.mark.timeout(360)
@pytest.mark.parametrize("page", [it for it in RUN if it.name not in CLUSTER_PAGES], ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_it_shows(shell: Shell, page: Path) -> None:
    assert len(play(shell, page)) >= 2
    left = (shell.home / "replicator-data").exists()
    assert left == ("replicator cluster down --purge" not in page.read_text())


@pytest.mark.kafka
@pytest.mark.timeout(360)
def test_the_commands_of_pages_on_a_running_cluster(shell: Shell) -> None:
    shell.start("replicator cluster up --nodes 3")
    shell.run("redis-cli -p 7001 set greeting hello")
    played = [line for name in CLUSTER_PAGES for line in play(shell, DOCS / name)]
    assert len(played) >= 8


def test_each_page_is_run_or_says_why_not() -> None:
    run = {page.name for page in RUN}
    assert not run & NOT_RUN_PAGES.keys()
    assert run | NOT_RUN_PAGES.keys() == {page.name for page in PAGES}


def test_each_reason_is_needed() -> None:
    lines = [line for page in RUN for block in blocks(page) for line in commands(block)]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in lines)] == []


def test_pages_that_are_not_run_for_want_of_commands_have_none() -> None:
    for page in PAGES:
        if NOT_RUN_PAGES.get(page.name, "").startswith("has no commands"):
            shown = [line for block in blocks(page) for line in commands(block)]
            assert shown == [], page.name


def test_lines_are_compared_without_numbers_and_places(tmp_path: Path) -> None:
    shell = Shell(tmp_path, "127.0.0.1:9092", name="d-1", base_port=17001)
    assert shell.here("redis-cli -p 7002 get a; curl 127.0.0.1:8003/status") == (
        "redis-cli -e -p 17002 get a; curl --silent --show-error --fail-with-body 127.0.0.1:18003/status"
    )
    shown = f"n2 follower 127.0.0.1:7002 serving Kafka 6 06a8f67a\n1 entry in {SHOWN_HOME}/replicator-data"
    real = f"n2  follower 127.0.0.1:17002 serving  leader  17 deadbeef\n1 entry in {tmp_path}/replicator-data\n"
    assert shell.comparable(shown) == shell.comparable(real)
    assert shell.comparable("n2 leader") != shell.comparable("n1 leader")


def test_blocks_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    indented, fenced = "    make a # why\n    # only a comment\n    its output\n", "```sh\nb \\\n  2\n```\n"
    page.write_text(f"text\n\n{indented}\n{fenced}\n```text\nc\n```\n\n```console\n$ d\nits output\n```\n")
    found = blocks(page)
    assert found == [
        Block(INDENTED, "make a # why\n# only a comment\nits output\n"),
        Block("sh", "b \\\n  2\n"),
        Block("text", "c\n"),
        Block("console", "$ d\nits output\n"),
    ]
    assert [commands(block) for block in found] == [["make a"], ["b    2"], [], ["d"]]
