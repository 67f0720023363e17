"""The figures that the documentation cites are those of the program."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from replicator import limits
from replicator.bench import sql as bench_sql
from replicator.client import Client
from replicator.config import load
from replicator.intervals import (
    AUTH_TIMEOUT_S,
    BARRIER_PAUSE_MS,
    CHECKPOINT_MS,
    EFFECT_WAIT_S,
    HTTP_TIMEOUT_S,
    MAX_SNAPSHOT_RETRY_S,
    OFFSET_COMMIT_MS,
    OUTAGE_LOG_S,
    PUBLISHER_SESSION_MS,
    SNAPSHOT_POLL_MS,
    SNAPSHOT_REVIEW_S,
    TRUNCATED_MS,
)
from replicator.local.kafka.jars import KAFKA_VERSION
from replicator.log.kafka.admin import ACKS_SETTINGS, WAL_SETTINGS
from replicator.protocol.pace import NON_MEMBER_INTERVALS, Pace
from replicator.protocol.timing import MAX_DRIFT, Timeouts
from replicator.records.types import VERSION, Timing
from replicator.store.keys import encode_key
from replicator.store.meta import FORMAT
from replicator.stream.sinks.http import TIMEOUT_S as SINK_REPLY_S
from replicator.stream.sinks.runner import MAX_RETRY_S, RETRY_S
from tools.configuration_doc import bytes_text

ROOT = Path(__file__).parents[1]
TIMING, TIMEOUTS, PACE = Timing(), Timeouts(), Pace()
CONFIG = load(None, {}, {"node": {"id": "n1", "cluster": "c", "dir": "/"}, "kafka": {"bootstrap": "k:1"}})
NODE, SNAPSHOTS = CONFIG.node, CONFIG.snapshots
LONGEST_KEY_BYTES = limits.MAX_KEY_BYTES - len(encode_key("kv", b"", b""))
GO_REDIS = re.findall(r"go-redis/v9 v(\d+\.\d+)", (ROOT / "tests/clients/go/go.mod").read_text())[0]
CLIENT_TIMEOUT_S = inspect.signature(Client).parameters["timeout_s"].default


def duration(ms: float) -> str:
    for size, unit in ((3_600_000, "hours"), (1_000, "s")):
        if ms % size == 0:
            return f"{ms // size:.0f} {unit}"
    return f"{ms} ms"


# file, a phrase of it with {} for the figure, the figure
FIGURES = [
    ("docs/stream.md", "commands that it has executed, up to {}", bytes_text(limits.EFFECTS_BYTES)),
    ("docs/stream.md", "up to {} until its node has executed", f"{EFFECT_WAIT_S:.0f} s"),
    ("docs/redis.md", "key may have up to about {}", bytes_text(LONGEST_KEY_BYTES)),
    ("docs/redis.md", "a value {}", bytes_text(limits.MAX_VALUE_BYTES)),
    ("docs/redis.md", "a request {}", bytes_text(limits.MAX_REQUEST_BYTES)),
    ("docs/client.md", "has more than {}, or", bytes_text(limits.MAX_REQUEST_BYTES)),
    ("docs/redis.md", "one transaction {}", bytes_text(limits.MAX_RECORD_BYTES)),
    ("docs/redis.md", "at most {} arguments", f"{limits.MAX_WRITE_ITEMS:,}"),
    ("docs/redis.md", "at most {} entries", f"{limits.MAX_CHANGES:,}"),
    ("docs/sql.md", "index has at most {},", bytes_text(limits.MAX_KEY_BYTES)),
    ("docs/sql.md", "There can be {} tables, indexes and views", str(limits.MAX_SQL_OBJECTS)),
    ("docs/sql.md", "The limit of {} changes", f"{limits.MAX_CHANGES:,}"),
    ("docs/sql.md", "a table that has more than {} rows", f"{limits.MAX_CHANGES:,}"),
    ("docs/benchmarks.md", "met: {} SELECTs", f"{bench_sql.MIN_SELECTS_PER_S:,}"),
    ("docs/benchmarks.md", "and {} UPDATEs", f"{bench_sql.MIN_UPDATES_PER_S:,}"),
    ("docs/benchmarks.md", "and {} fields a second", f"{bench_sql.MIN_FIELDS_PER_S:,}"),
    ("docs/benchmarks.md", "{} rows are the most that one statement", f"{limits.MAX_SQL_ROWS:,}"),
    ("docs/sql.md", "with {} columns and", f"{limits.MAX_SQL_COLUMNS:,}"),
    ("docs/sql.md", "KiB, and {} words, values and signs", f"{limits.MAX_SQL_TOKENS:,}"),
    ("docs/sql.md", "columns and {} indexes in all", str(limits.MAX_SQL_INDEXES)),
    ("docs/sql.md", "SQLite's engine has {} MiB of memory", str(limits.MAX_SQL_MEMORY_BYTES >> 20)),
    ("docs/sql.md", "of the node together take more than {} MiB", str(limits.MAX_SQL_QUERY_MEMORY_BYTES >> 20)),
    ("docs/sql.md", "can write at most {} rows", f"{limits.MAX_SQL_ROWS:,}"),
    ("docs/sql.md", "rows and {} MiB of values", str(limits.MAX_SQL_VALUES_BYTES >> 20)),
    ("docs/sql.md", "{} MiB of those that it reads by their keys", str(limits.MAX_TRACKED_BYTES >> 20)),
    ("docs/sql.md", "A row has at most {}, and", bytes_text(limits.MAX_VALUE_BYTES)),
    ("docs/sql.md", "a record of at most {} MB", f"{limits.MAX_RECORD_BYTES / 1e6:.1f}"),
    ("docs/sql.md", "clients, for at most {}.", f"{limits.MAX_SQL_S} s"),
    ("docs/sql.md", "can read at most {} entries of tables", f"{limits.MAX_TRACKED_ENTRIES:,}"),
    ("docs/sql.md", "up to {} times in all", str(limits.WRITE_ATTEMPTS)),
    ("docs/sql.md", "transaction can read {} entries", f"{limits.MAX_TRACKED_ENTRIES:,}"),
    ("docs/sql.md", "and change {}.", f"{limits.MAX_CHANGES:,}"),
    ("docs/procedures.md", "may take {} of CPU time", duration(limits.MAX_EXEC_MS)),
    ("docs/procedures.md", "is ended after {},", duration(limits.MAX_PROCEDURE_MS)),
    ("docs/procedures.md", "nest about {} deep", str(limits.MAX_PROCEDURE_DEPTH)),
    ("docs/procedures.md", "returns at most {} values", f"{limits.MAX_PROCEDURE_ITEMS:,}"),
    ("docs/leadership.md", "still ends before it after {}", duration(TRUNCATED_MS)),
    ("docs/compatibility.md", "records in the log | {};", str(VERSION)),
    ("docs/compatibility.md", "this program reads 1 to {} |", str(VERSION)),
    ("docs/compatibility.md", "store of a node | {} |", str(FORMAT)),
    ("docs/compatibility.md", "Apache Kafka | {} in KRaft mode", KAFKA_VERSION),
    ("docs/compatibility.md", "go-redis {} and", GO_REDIS),
    ("docs/faq.md", "in rate by more than {} percent", f"{MAX_DRIFT:.0%}".rstrip("%")),
    ("docs/modes.md", "hash with {} or more fields", f"{limits.FLUSH_ENTRIES:,}"),
    ("docs/redis.md", "more than {}. Split", duration(limits.MAX_EXEC_MS)),
    ("docs/redis.md", "that takes more than {} of CPU time", duration(limits.MAX_EXEC_MS)),
    ("docs/redis.md", "CPU time, or more than {} of memory", bytes_text(limits.MAX_SCRIPT_MEMORY_BYTES)),
    ("docs/redis.md", "A script may have {},", bytes_text(limits.MAX_SCRIPT_BYTES)),
    ("docs/redis.md", "its keys and arguments {}.", bytes_text(limits.MAX_SCRIPT_ARGUMENT_BYTES)),
    ("docs/redis.md", "keeps the {} scripts", f"{limits.MAX_SCRIPTS:,}"),
    ("docs/redis.md", "look at {} keys or fields in one script", f"{limits.MAX_STEPS_IN_EXEC:,}"),
    ("docs/redis.md", "no more than {} keys", f"{limits.MAX_SCAN_COUNT:,}"),
    ("docs/redis.md", "subscribe to {} such patterns", str(limits.MAX_EVENT_PATTERNS)),
    ("docs/redis.md", "leaves {} of messages unread", bytes_text(limits.MAX_UNREAD_BYTES)),
    ("docs/redis.md", "{} of changes wait to be sent", bytes_text(limits.MAX_EVENT_QUEUE_BYTES)),
    ("CHANGELOG.md", "left {} of messages unread", bytes_text(limits.MAX_UNREAD_BYTES)),
    ("docs/redis.md", "reply has at most {} changes", f"{limits.MAX_XREAD_COUNT:,}"),
    ("docs/redis.md", "in memory, up to {}", bytes_text(limits.RECENT_BYTES)),
    ("docs/redis.md", "or {} records of the log", f"{limits.RECENT_RECORDS:,}"),
    ("docs/redis.md", "1 to {}", bytes_text(limits.ONCE_ID_BYTES)),
    ("docs/redis.md", "for {}, and the last", duration(limits.ONCE_AGE_MS)),
    ("docs/redis.md", "and the last {}", f"{limits.ONCE_IDS:,}"),
    ("docs/stream.md", "otherwise {} after its last heartbeat", duration(PUBLISHER_SESSION_MS)),
    ("docs/stream.md", "some changes (at most {})", str(limits.READ_CHANGES)),
    ("docs/stream.md", "`max.message.bytes` is {}:", bytes_text(limits.MAX_MESSAGE_BYTES)),
    ("docs/stream.md", "two values of {},", bytes_text(limits.MAX_VALUE_BYTES)),
    ("docs/sinks.md", "of at most {} changes and", str(limits.SINK_REQUEST_CHANGES)),
    ("docs/sinks.md", "changes and {} unless", bytes_text(limits.SINK_REQUEST_BYTES)),
    ("docs/sinks.md", "no reply within {},", f"{SINK_REPLY_S:g} s"),
    ("docs/sinks.md", "again after {}, then doubled", f"{RETRY_S:g} s"),
    ("docs/sinks.md", "doubled up to {},", f"{MAX_RETRY_S:g} s"),
    ("docs/sinks.md", "when it begins, every {}, and", f"{OUTAGE_LOG_S:g} s"),
    ("docs/benchmarks.md", "(`replicator cluster timing --election-ms`, {})", duration(TIMING.election_ms)),
    ("docs/leadership.md", "not a member waits {} longer", duration(NON_MEMBER_INTERVALS * PACE.idle_heartbeat_ms)),
    ("docs/configuration.md", "an idle one every {}.", duration(PACE.idle_heartbeat_ms)),
    ("docs/http-api.md", "that of Redis + {}", str(NODE.http.port - NODE.resp.port)),
    ("docs/http-api.md", "bodies of {},", bytes_text(limits.MAX_BODY_BYTES)),
    ("docs/http-api.md", "KiB, {} connections,", str(limits.MAX_HTTP_CONNECTIONS)),
    ("docs/http-api.md", "connections, {} for a request", f"{HTTP_TIMEOUT_S:g} s"),
    ("docs/deployment.md", "open files | {} for Kafka", str(limits.RESERVED_DESCRIPTORS)),
    ("docs/deployment.md", "at least `max_clients` + {};", str(limits.RESERVED_DESCRIPTORS)),
    ("docs/client.md", "good for {}", duration(limits.ONCE_AGE_MS)),
    ("docs/client.md", "the last {} ids", f"{limits.ONCE_IDS:,}"),
    ("docs/client.md", "`timeout_s=` ({})", f"{CLIENT_TIMEOUT_S:g}"),
    ("docs/modes.md", "`sync_ms` ({})", duration(TIMING.sync_ms)),
    ("docs/modes.md", "`read_ms` ({})", duration(TIMEOUTS.read_ms)),
    ("docs/modes.md", "`follower_lease_ms` ({})", duration(TIMING.follower_lease_ms)),
    ("docs/modes.md", "at most one every {}", duration(BARRIER_PAUSE_MS)),
    ("docs/operations.md", "at most `lease_ms` ({})", duration(TIMING.lease_ms)),
    ("docs/operations.md", "It does so every {} if", duration(OFFSET_COMMIT_MS)),
    ("docs/operations.md", "may show up to {} records, the heartbeats", str(OFFSET_COMMIT_MS // TIMING.heartbeat_ms)),
    ("docs/operations.md", "at most `read_ms` ({})", duration(TIMEOUTS.read_ms)),
    ("docs/operations.md", "heartbeat each `heartbeat_ms` ({})", duration(TIMING.heartbeat_ms)),
    ("docs/operations.md", "used its lease for {}, and", duration(PACE.idle_after_ms)),
    ("docs/operations.md", "appends a heartbeat every {}, which", duration(PACE.idle_heartbeat_ms)),
    ("docs/operations.md", "a checkpoint every {}", duration(CHECKPOINT_MS)),
    ("docs/operations.md", "and looks again every {}:", duration(SNAPSHOT_POLL_MS)),
    ("docs/snapshots.md", "there are new records and {} records", f"{SNAPSHOTS.every_records:,}"),
    ("docs/snapshots.md", "has failed. It is repeated after {}, and", f"{2 * SNAPSHOT_REVIEW_S:g} s"),
    ("docs/operations.md", "It tries again every {} minutes,", f"{MAX_SNAPSHOT_RETRY_S / 60:g}"),
    ("docs/snapshots.md", "pauses that double up to {} minutes", f"{MAX_SNAPSHOT_RETRY_S / 60:g}"),
    ("docs/configuration.md", "authenticate within {}", f"{AUTH_TIMEOUT_S:g} s"),
    ("docs/configuration.md", "after {} without a complete request", f"{HTTP_TIMEOUT_S:g} s"),
    ("docs/configuration.md", "arrive within {}", f"{HTTP_TIMEOUT_S:g} s"),
    ("docs/configuration.md", "at least {} times `lease_ms`", f"{1 + MAX_DRIFT:g}"),
    ("docs/configuration.md", "differ in rate by {} percent", f"{MAX_DRIFT:.0%}".rstrip("%")),
]


@pytest.mark.parametrize(("file", "phrase", "figure"), FIGURES)
def test_a_figure_is_that_of_the_program(file: str, phrase: str, figure: str) -> None:
    text = " ".join((ROOT / file).read_text().split())
    before, after = map(re.escape, phrase.split("{}"))
    cited = re.findall(rf"{before}(\d[\d,.]*(?: (?:bytes|[KM]i?B|ms|s|hours)\b)?){after}", text)
    assert cited, f"{file} has no '{phrase}' any more: change the phrase here"
    assert [it.rstrip(",.") for it in cited] == [figure] * len(cited), f"{file}: the program has {figure}"


def test_durations_in_words() -> None:
    assert [duration(ms) for ms in (750, 1_000, 1_500, 24 * 3_600_000)] == ["750 ms", "1 s", "1500 ms", "24 hours"]


def test_the_figures_of_measurements_are_those_of_the_benchmarks() -> None:
    measured = (ROOT / "docs/benchmarks.md").read_text()
    cited = re.findall(r"\d+,\d{3}|\d\.\d\d(?= ms)", (ROOT / "docs/faq.md").read_text())
    assert len(cited) >= 8
    rounded = {"12,000"}
    assert [it for it in cited if it not in measured and it not in rounded] == []


def test_operations_lists_the_settings_of_the_topics() -> None:
    page = (ROOT / "docs" / "operations.md").read_text().partition("## Topics and their settings")[2]
    rows = re.findall(r"^\| `([a-z.]+(?:`, `[a-z.]+)*)` \| `([^|]+)` \| ", page, re.MULTILINE)
    listed = {
        name: value
        for names, values in rows
        for name, value in zip(names.split("`, `"), values.split("`, `"), strict=True)
    }
    assert listed == WAL_SETTINGS
    [acks] = re.findall(r"^`<cluster>\.acks` has (.*?):", page, re.MULTILINE | re.DOTALL)
    assert dict(re.findall(r"`([a-z.]+)`\s`([a-z0-9]+)`", acks)) == ACKS_SETTINGS
