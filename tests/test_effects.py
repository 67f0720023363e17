"""The changes of commands: nodes keep them, and the change stream publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.intervals import EFFECT_WAIT_S
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.protocol.log_state import LogState
from replicator.records.types import Change, Command, Header, Record, Replication, Write
from replicator.store import effects as effects_module
from replicator.store.effects import Effects
from replicator.store.machine import Machine, open_machine
from replicator.stream.command_changes import CommandChanges
from replicator.stream.envelope import StreamFormat
from replicator.stream.publication import Publication
from replicator.stream.settings import StreamSettings
from replicator.stream.sql_rows import NO_TABLES
from tests.command_log_fixture import set_replication, sql
from tests.redis_fixture import STEADY, ServerThread

SETTINGS = StreamSettings("changes", "log", StreamFormat.JSON)
TIMELINE = bytes(range(16))
AUTHOR = Author(NodeId("n1"), 1)


def write(row: bytes, size: int = 1) -> Write:
    return Write((Change("kv", row, b"", None, b"s" + bytes(size)),))


def state_at(seq: int) -> LogState:
    return LogState(TIMELINE, Epoch(1), AUTHOR, Seq(seq), bytes(8), Offset(seq), Offset(seq))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return open_machine(tmp_path / "store", "c", "t")


class TestStore:
    def test_the_effects_of_commands_are_kept(self, machine: Machine) -> None:
        machine.apply([write(b"a"), write(b"b"), write(b"c")], state_at(3), [0, 2])
        machine.apply([write(b"d")], state_at(4))
        machine.close()
        effects = Effects(machine.folder)
        assert [effects.find(TIMELINE, Seq(it)) for it in (1, 3)] == [write(b"a"), write(b"c")]
        assert effects.find(TIMELINE, Seq(5)) is None  # is not applied yet
        assert effects.find(bytes(16), Seq(2)) is None  # the store follows another log
        with pytest.raises(LogTrimmed, match="does not keep the changes of the command in record 2"):
            effects.find(TIMELINE, Seq(2))
        effects.close()

    def test_a_store_in_which_nothing_was_applied(self, machine: Machine) -> None:
        machine.close()
        assert Effects(machine.folder).find(TIMELINE, Seq(1)) is None

    def test_the_oldest_ones_are_dropped(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        genuine = effects_module.drop_oldest
        monkeypatch.setattr("replicator.store.effects.drop_oldest", lambda txn, it: genuine(txn, it, 100_000))
        for seq in range(1, 100):
            machine.apply([write(b"%d" % seq, 10_000)], state_at(seq), [0])
        machine.close()
        effects = Effects(machine.folder)
        assert effects.find(TIMELINE, Seq(99)) == write(b"99", 10_000)
        assert effects.find(TIMELINE, Seq(94)) == write(b"94", 10_000)
        with pytest.raises(LogTrimmed):
            effects.find(TIMELINE, Seq(80))

    def test_they_are_not_part_of_the_state(self, machine: Machine, tmp_path: Path) -> None:
        other = open_machine(tmp_path / "other", "c", "t")
        machine.apply([write(b"a")], state_at(1), [0])
        other.apply([write(b"a")], state_at(1))
        assert machine.meta == other.meta
        assert machine.recount() == (machine.meta.digest, machine.meta.entries)
        machine.close()
        other.close()


class FakeEffects:
    """Of a node that applies the command after some looks."""

    def __init__(self, found: Write, looks: float) -> None:
        self.found, self.looks = found, looks

    def find(self, timeline: bytes, seq: Seq) -> Write | None:
        assert (timeline, seq) == (TIMELINE, 7)
        self.looks -= 1
        return self.found if self.looks < 0 else None


class TestWaiting:
    RECORD = Record(Header(4, TIMELINE, Epoch(1), AUTHOR, Seq(7), 0, bytes(8)), Command("", (), (), 0, 1, 0), b"")

    def changes(self, found: Write, looks: float) -> Write:
        self.now_s = 0.0

        def sleep(seconds: float) -> None:
            self.now_s += seconds

        effects = cast(Effects, FakeEffects(found, looks))
        return CommandChanges(effects, lambda: self.now_s, sleep)(self.RECORD)

    def test_it_waits_until_the_node_has_applied_the_command(self) -> None:
        assert self.changes(write(b"a"), 0) == write(b"a")
        assert self.now_s == 0
        assert self.changes(write(b"a"), 20) == write(b"a")
        assert 0 < self.now_s < EFFECT_WAIT_S

    def test_it_gives_way_to_another_node(self) -> None:
        with pytest.raises(BrokerUnavailable, match="has not applied record 7, a command, for 4 s"):
            self.changes(write(b"a"), float("inf"))

    def test_the_effects_of_another_command(self) -> None:
        with pytest.raises(LogDamage, match="a command with 1 changes, but the store of this node keeps 2"):
            self.changes(Write((*write(b"a").changes, *write(b"b").changes)), 0)


def test_every_node_can_publish_a_log_of_commands(tmp_path: Path) -> None:
    """What is published leads to what the stores have."""
    server = ServerThread(tmp_path / "nodes", nodes=2, timing=STEADY)
    try:
        set_replication(server, Replication.COMMAND)
        client = server.client(single_connection_client=True)
        sql(client, "CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b)")
        sql(
            client,
            "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 9) "
            "INSERT INTO t SELECT x, random(), hex(randomblob(3)) FROM n",
        )
        client.hset("h", mapping={"x": 1, "y": 2})
        sql(client, "UPDATE t SET a = random() WHERE id < 4")
        set_replication(server, Replication.ROW)
        client.set("k", "v")
        sql(client, "DELETE FROM t WHERE id = 9")
        set_replication(server, Replication.COMMAND)
        client.hdel("h", "x")
        sql(client, "INSERT INTO t VALUES (20, random(), NULL)")
        server.run(server.cluster.caught_up())
        published = [_published(server, name, tmp_path) for name in server.cluster.nodes]
    finally:
        server.close()
    assert published[0] == published[1]
    changes, content = published[0]
    assert {it.table for it in changes} == {"t", "kv"}
    state: dict[Any, Any] = {}
    for change in changes:
        name = change.table, change.row, change.field
        assert state.pop(name, None) == change.before
        if change.after is not None:
            state[name] = change.after
    assert state == {(it.table, it.row, it.field): it.after for it in content}
    with pytest.raises(ConfigError, match="replicate row"):
        Publication("shop", SETTINGS).read(LogState(), NO_TABLES, server.cluster.log.entries, 0, 10**9)


def _published(server: ServerThread, name: str, folder: Path) -> tuple[list[Any], list[Any]]:
    """By this node: the changes in the log, and the content of its store."""
    machine, copy = server.cluster.nodes[NodeId(name)].machine, folder / f"copy-{name}"
    copy.mkdir()

    async def copied() -> None:
        machine.copy_to(copy)

    server.run(copied())
    effects = Effects(copy)
    publication = Publication("shop", SETTINGS, (), CommandChanges(effects))
    form = SETTINGS.envelope_format()
    found = publication.read(LogState(), NO_TABLES, server.cluster.log.entries, 0, 10**9).messages
    entries = [*machine.view.scan(b"", b"\xff")]
    content = publication.content(machine.state, NO_TABLES, 0, 0, entries, 0).messages
    effects.close()
    return [form.decode(it.value) for it in found if it.value], [form.decode(it.value) for it in content if it.value]
