"""`replicator chaos`: its measurements, and its detection of violated guarantees."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest

from replicator.chaos.failover import EventKind, FailoverRun
from replicator.chaos.failover_figures import FailoverFigures, failover_figures
from replicator.chaos.linear_reads import LinearReaders
from replicator.chaos.redis_connection import RedisConnection
from replicator.chaos.write_ledger import SETTLED_WRITES, WriteFaults, WriteLedger, WriteOutcome

ACKNOWLEDGED, REJECTED, UNKNOWN = WriteOutcome.ACKNOWLEDGED, WriteOutcome.REJECTED, WriteOutcome.UNKNOWN


class Holding(RedisConnection):
    """A node that holds these keys."""

    def __init__(self, held: dict[str, bytes]) -> None:
        super().__init__(0, "")
        self._held = held

    async def ask(self, timeout_s: float, *command: str | int) -> Any:
        assert command[0] == "MGET"
        return [self._held.get(str(key)) for key in command[1:]]


def ledger_of(*ends: WriteOutcome) -> WriteLedger:
    ledger = WriteLedger("w:")
    for end in ends:
        ledger.record(ledger.open(), end, "n1")
    return ledger


@pytest.mark.parametrize(
    ("first", "again", "end"),
    [
        (REJECTED, ACKNOWLEDGED, ACKNOWLEDGED),
        (UNKNOWN, ACKNOWLEDGED, ACKNOWLEDGED),
        (REJECTED, REJECTED, REJECTED),
        (UNKNOWN, REJECTED, UNKNOWN),
        (REJECTED, UNKNOWN, UNKNOWN),
    ],
)
def test_a_write_that_was_tried_twice_is_rejected_only_if_both_were(
    first: WriteOutcome, again: WriteOutcome, end: WriteOutcome
) -> None:
    assert first.then(again) is end


def test_the_pause_is_the_longest_gap_between_the_event_and_the_new_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = WriteLedger("w:")
    before = [(0, "n1", ACKNOWLEDGED), (5, "n1", ACKNOWLEDGED), (6, "n1", ACKNOWLEDGED), (8, "n1", REJECTED)]
    after = [(9, "n2", ACKNOWLEDGED), *[(10, "n2", ACKNOWLEDGED)] * SETTLED_WRITES, (99, "n2", ACKNOWLEDGED)]
    for at_s, node, end in before + after:
        clock = SimpleNamespace(monotonic=lambda at_s=at_s: at_s)
        monkeypatch.setattr("replicator.chaos.write_ledger.time", clock)
        ledger.record(ledger.open(), end, node)
    assert ledger.pause_s(since_s=7, leader="n1") == 3
    assert ledger.pause_s(since_s=5, leader="n1") == 5
    assert ledger.acknowledged_elsewhere("n2") == 3 and ledger.acknowledged_elsewhere("n1") == SETTLED_WRITES + 2


def test_lost_writes_and_rejected_writes_that_are_present_are_counted() -> None:
    ledger = ledger_of(ACKNOWLEDGED, ACKNOWLEDGED, ACKNOWLEDGED, REJECTED, REJECTED, UNKNOWN, UNKNOWN)
    found = [b"0", None, b"7", None, b"4", None, b"6"]
    assert ledger.check(range(7), found) == WriteFaults(lost=2, rejected_there=1)
    assert ledger.check(range(3, 6), found[3:6]) == WriteFaults(lost=0, rejected_there=1)
    assert ledger.count(range(7)) == 3 and ledger.count(range(1, 4)) == 2


async def test_a_write_that_is_missing_on_one_node_is_lost() -> None:
    ledger = ledger_of(*[ACKNOWLEDGED] * 2500)
    held = {ledger.key(number): b"%d" % number for number in range(2500)}
    runs = [
        FailoverRun(EventKind.KILL, 0.5, range(1200), 3, 0),
        FailoverRun(EventKind.KILL, 0.7, range(1200, 2500), 4, 0),
    ]
    whole = await failover_figures(EventKind.KILL, runs, ledger, [Holding(held), Holding(held)])
    assert whole == FailoverFigures(
        EventKind.KILL, (500.0, 700.0), 2500, lost=0, rejected_there=0, failed_twice=7, stale_reads=0
    )
    lacking = {key: value for key, value in held.items() if key != ledger.key(2000)}
    assert (await failover_figures(EventKind.KILL, runs, ledger, [Holding(held), Holding(lacking)])).lost == 1


def test_writes_may_fail_twice_except_in_a_handover() -> None:
    fine = FailoverFigures(EventKind.KILL, (1.0,), 10, lost=0, rejected_there=0, failed_twice=7, stale_reads=0)
    assert not fine.broken
    assert replace(fine, kind=EventKind.HANDOVER).broken
    assert all(
        it.broken for it in (replace(fine, lost=1), replace(fine, rejected_there=1), replace(fine, stale_reads=1))
    )


def test_a_percentile_is_one_of_the_pauses() -> None:
    of_100 = FailoverFigures(EventKind.KILL, tuple(range(100, 0, -1)), 0, 0, 0, 0, 0)
    assert [of_100.pause_ms(percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    of_1 = replace(of_100, pauses_ms=(7.0,))
    assert [of_1.pause_ms(percent) for percent in (50, 95, 99, 100)] == [7.0] * 4


def test_the_longest_gap_is_one_that_ended_after_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = WriteLedger("w:")
    for at_s in (0, 6, 8, 11, 12):
        clock = SimpleNamespace(monotonic=lambda at_s=at_s: at_s)
        monkeypatch.setattr("replicator.chaos.write_ledger.time", clock)
        ledger.record(ledger.open(), ACKNOWLEDGED, "n1")
    assert ledger.longest_gap_s(since_s=7) == 3
    assert ledger.longest_gap_s(since_s=5) == 6
    assert ledger.longest_gap_s(since_s=13) == 0


async def test_a_linearizable_read_without_the_latest_write_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    replies: list[Any] = [b"0", None, hiredis.ReplyError("STALE"), TimeoutError(), b"0"]
    ledger, all_sent = ledger_of(ACKNOWLEDGED), asyncio.Event()

    async def ask(connection: RedisConnection, timeout_s: float, *command: str | int) -> Any:
        assert command == ("REPL.READ", "linearizable", "GET", "w:0")
        if not replies:
            all_sent.set()
            await asyncio.Event().wait()
        reply = replies.pop(0)
        if isinstance(reply, TimeoutError):
            raise reply
        return reply

    monkeypatch.setattr(RedisConnection, "ask", ask)
    readers = LinearReaders({"n1": 1}, "", ledger)
    readers.start()
    await all_sent.wait()
    await readers.stop()
    assert (readers.stale, readers.answered) == (1, 3)


def run(*args: str, command: str = "failover", timeout_s: float = 200) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "replicator", "chaos", command, *args]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(line, capture_output=True, text=True, timeout=timeout_s, env=environment)


def test_wrong_options_are_reported(tmp_path: Any) -> None:
    for args, why in (
        (("--kinds", "kill,fire"), "expected one or more of kill,pause,stall,handover,stop"),
        (("--dir", str(tmp_path)), "there is no cluster in"),
        (("--dir", str(tmp_path), "--bootstrap", "127.0.0.1:1"), "leave --bootstrap out"),
    ):
        done = run(*args)
        assert done.returncode == 1 and why in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_kind_of_failure_of_a_broker_is_told() -> None:
    done = run("--kinds", "kill,fire", command="brokers")
    assert done.returncode == 1 and "expected one or more of kill,stop,cut,controller,rolling" in done.stderr


@pytest.mark.kafka
@pytest.mark.brokers
@pytest.mark.timeout(420)
def test_the_failure_of_a_broker_costs_a_pause_and_no_write() -> None:
    done = run("--runs", "1", "--kinds", "kill,controller", "--json", command="brokers", timeout_s=400)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"], found
    assert [it["kind"] for it in found["kinds"]] == ["kill", "controller"]
    assert all(it["acknowledged"] > 600 and 0 < it["p50_ms"] < 30_000 for it in found["kinds"])


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_each_kind_of_failover_costs_a_pause_and_no_write(kafka: str) -> None:
    done = run("--runs", "1", "--json", "--bootstrap", kafka)
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["ok"], found
    assert [it["kind"] for it in found["kinds"]] == ["kill", "pause", "stall", "handover", "stop"]
    for it in found["kinds"]:
        assert it["acknowledged"] > 600
        assert it["runs"] == 1 and 0 < it["p50_ms"] == it["max_ms"] == it["pauses_ms"][0] < 10_000
