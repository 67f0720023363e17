"""The messages of a node as text and as JSON, also those of the processes that it starts."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from replicator.local.ports import random_free_ports
from replicator.log.kafka.security import PLAINTEXT
from replicator.logging_setup import JsonFormatter, LogFormat, LogLevel, LogSettings
from replicator.position import NodeId
from replicator.stream.run_publisher import PublisherSettings

JSON = LogSettings(LogLevel.INFO, LogFormat.JSON)
NOWHERE = "127.0.0.1:1"  # no Kafka


def formatted(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter("shop", "n1").format(record)
    assert "\n" not in line
    return dict(json.loads(line))


def record(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord(
        "replicator.node", logging.WARNING, __file__, 1, message, arguments, **{"exc_info": None, **more}
    )


def parsed(stderr: str) -> list[dict[str, Any]]:
    """Each line is an object. Raises `ValueError`."""
    found = [dict(json.loads(line)) for line in stderr.splitlines()]
    for it in found:
        assert datetime.fromisoformat(it["time"]).tzinfo == UTC
        assert {"level", "logger", "message"} < it.keys()
    return found


def test_a_message_as_json() -> None:
    it = record("%s waits for %d records\n“of n2”", "n1", 3)
    it.created = 1767225599.9996
    assert formatted(it) == {
        "time": "2025-12-31T23:59:59.999Z",
        "level": "WARNING",
        "logger": "replicator.node",
        "message": "n1 waits for 3 records\n“of n2”",
        "cluster": "shop",
        "node": "n1",
    }


def test_an_exception_as_json() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        fields = formatted(record("failed", exc_info=sys.exc_info()))
    assert fields["message"] == "failed"
    assert fields["exception"].startswith("Traceback (most recent call last):\n")
    assert fields["exception"].endswith("\nValueError: why")


def run(code: str, settings: LogSettings) -> subprocess.CompletedProcess[str]:
    begin = f"""
import logging, sys, threading, warnings
from replicator.logging_setup import LogFormat, LogLevel, LogSettings, set_up
set_up(LogSettings(LogLevel({settings.level.value!r}), LogFormat({settings.format.value!r})), "shop", "n1")
"""
    return subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ValueError('why')", "why"),
        ("thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()", "division by zero"),
        ("warnings.warn('old')", "UserWarning: old"),
    ],
    ids=["uncaught", "in a thread", "warning"],
)
def test_what_python_reports_is_json_too(code: str, expected: str) -> None:
    [line] = parsed(run(code, JSON).stderr)
    assert expected in line["message"]
    assert (line["cluster"], line["node"]) == ("shop", "n1")


@pytest.mark.parametrize("format", LogFormat)
def test_less_severe_messages_are_left_out(format: LogFormat) -> None:
    done = run("logging.info('no'); logging.warning('yes')", LogSettings(LogLevel.WARNING, format))
    assert done.stdout == ""
    assert ("yes" in done.stderr, "no" in done.stderr.replace("node", "")) == (True, False)


def test_a_message_as_text() -> None:
    line = run("logging.getLogger('a').info('b')", LogSettings()).stderr
    assert line.endswith(" INFO a: b\n")


def test_libraries_that_log_passwords_do_not_at_debug() -> None:
    libraries = ("aiokafka.conn", "botocore.auth", "aiobotocore.endpoint", "s3fs", "fsspec", "urllib3.connectionpool")
    code = f"""
for name in {libraries}:
    logging.getLogger(name).debug("TOPSECRET")
    logging.getLogger(name).info("TOPSECRET")
logging.getLogger("replicator.node").debug("shown")
"""
    stderr = run(code, LogSettings(LogLevel.DEBUG)).stderr
    assert "shown" in stderr and "TOPSECRET" not in stderr


def test_libraries_log_no_less_severe_messages_than_the_node() -> None:
    code = "logging.getLogger('botocore.auth').warning('no'); logging.getLogger('botocore.auth').error('yes')"
    stderr = run(code, LogSettings(LogLevel.ERROR)).stderr
    assert ("yes" in stderr, "WARNING" in stderr) == (True, False)


def test_a_kafka_password_is_not_logged_at_debug() -> None:
    """`aiokafka` logs each request, SASL's too, with what is in it."""
    code = """
import asyncio, struct
from aiokafka.conn import create_conn

REPLIES = {
    18: struct.pack(">hi", 0, 2) + struct.pack(">hhhhhh", 17, 0, 1, 36, 0, 0),  # ApiVersions
    17: struct.pack(">hih", 0, 1, 5) + b"PLAIN",  # SaslHandshake
    36: struct.pack(">hhi", 0, -1, 0),  # SaslAuthenticate
}

async def serve(reader, writer):
    while length := await reader.readexactly(4):
        request = await reader.readexactly(struct.unpack(">i", length)[0])
        key, _, id = struct.unpack(">hhi", request[:8])
        reply = struct.pack(">i", id) + REPLIES[key]
        writer.write(struct.pack(">i", len(reply)) + reply)

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    options = dict(sasl_mechanism="PLAIN", sasl_plain_username="shop", sasl_plain_password="TOPSECRET")
    await create_conn("127.0.0.1", port, security_protocol="SASL_PLAINTEXT", **options)
    print("connected")

asyncio.run(main())
"""
    done = run(code, LogSettings(LogLevel.DEBUG))
    assert "connected" in done.stdout, done.stderr
    assert "TOPSECRET" not in done.stderr


# The processes of a node


def node(tmp_path: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    resp, http = random_free_ports(2)
    command = [sys.executable, "-m", "replicator", "node", "run", "--id", "n1", "--cluster", "shop"]
    command += ["--bootstrap", NOWHERE, "--dir", str(tmp_path / "n1"), *options]
    command += ["--resp", f"127.0.0.1:{resp}", "--http", f"127.0.0.1:{http}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def test_a_node_logs_as_json_to_stderr(tmp_path: Path) -> None:
    process = node(tmp_path, REPLICATOR_NODE_LOG_FORMAT="json")
    assert process.stderr is not None
    first = process.stderr.readline()  # Kafka does not answer
    process.send_signal(signal.SIGTERM)
    rest, nothing = process.stderr.read(), process.communicate(timeout=30)[0]
    assert (process.returncode, nothing) == (0, "")
    lines = parsed(first + rest)
    assert {(it["cluster"], it["node"]) for it in lines} == {("shop", "n1")}
    assert f"Kafka at {NOWHERE} " in lines[0]["message"]
    assert lines[-1]["message"] == "stopping"


@pytest.mark.parametrize("format", LogFormat)
def test_a_node_that_cannot_start_says_why_in_that_format(tmp_path: Path, format: LogFormat) -> None:
    (tmp_path / "n1").write_text("not a folder")
    process = node(tmp_path, "--log-format", format)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    expected = "cannot be used as the folder of a node"
    if format is LogFormat.JSON:
        [line] = parsed(err)
        assert (line["level"], expected in line["message"]) == ("CRITICAL", True)
    else:
        assert err.startswith("Error: ") and expected in err


def test_a_publisher_logs_as_its_node(tmp_path: Path) -> None:
    settings = PublisherSettings(NOWHERE, "shop", NodeId("n1"), tmp_path, tmp_path, PLAINTEXT, JSON)
    assert PublisherSettings.decode(settings.encode()) == settings
    code = "from replicator.stream import run_publisher as it; it.Publisher = None; it.main()"  # it fails
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(settings.encode())
        process.stdin.flush()  # and left open, as by its node
        [line] = parsed(process.stderr.read().decode())
    assert (line["node"], line["level"]) == ("n1", "CRITICAL")
    assert "TypeError" in line["exception"]
