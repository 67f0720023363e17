"""Read levels and tokens in requests, and the keys that are suspended after each record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRequest, Stale
from replicator.position import Author, Epoch, NodeId, Offset, Seq, Token
from replicator.protocol.levels import (
    EVENTUAL,
    LINEARIZABLE,
    Level,
    LevelKind,
    check_timeline,
    decode_token,
    encode_token,
    parse_level,
)
from replicator.protocol.log_state import LogState
from replicator.protocol.suspension import SuspendedKeys, Suspension, blocks
from replicator.records.types import (
    Change,
    Claim,
    Membership,
    Policy,
    Reason,
    Release,
    Single,
    Suspend,
    Write,
    WriteMode,
)
from replicator.store import snapshot
from replicator.store.keys import encode_key
from replicator.store.machine import Machine, open_machine
from tests.copies import restore_copy

TIMELINE = "0123456789abcdef" * 2
TOKEN = Token(TIMELINE, Offset(7))
A, B, C = (encode_key("kv", row, b"") for row in (b"a", b"b", b"c"))


@pytest.mark.parametrize(
    ("line", "level", "used"),
    [
        ("eventual", EVENTUAL, 1),
        ("linearizable", LINEARIZABLE, 1),
        ("LINEARIZABLE GET k", LINEARIZABLE, 1),
        ("bounded 500", Level(LevelKind.BOUNDED, 500), 2),
        ("Bounded 500 10", Level(LevelKind.BOUNDED, 500, 10), 3),
        ("bounded 500 0 GET k", Level(LevelKind.BOUNDED, 500), 3),
        ("bounded 500 GET 10", Level(LevelKind.BOUNDED, 500), 2),
        ("bounded 1000000000 1000000000", Level(LevelKind.BOUNDED, 10**9, 10**9), 3),
        (f"session {TIMELINE}:7", Level(LevelKind.SESSION, token=TOKEN), 2),
        (f"session {TIMELINE}:0 GET k", Level(LevelKind.SESSION, token=Token(TIMELINE, Offset(0))), 2),
    ],
)
def test_a_level_is_parsed_from_the_start_of_a_line(line: str, level: Level, used: int) -> None:
    assert parse_level(line.split()) == (level, used)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "unknown read level ''"),
        ("strong", "unknown read level 'strong': use eventual, bounded MS"),
        ("default", "unknown read level 'default'"),
        ("eventually", "unknown read level"),
        ("x" * 10_000, f"unknown read level '{'x' * 80}': use"),
        ("bounded", "bounded needs a number of milliseconds"),
        ("bounded GET k", "bounded needs a number of milliseconds"),
        ("bounded -1", "bounded needs a number of milliseconds"),
        ("bounded 1.5", "bounded needs a number of milliseconds"),
        ("bounded 1000000001", "at most 1000000000"),
        ("bounded 1 1000000001", "at most 1000000000"),
        ("bounded " + "9" * 10_000, "at most 1000000000"),
        ("bounded 1 " + "9" * 10_000, "at most 1000000000"),
        ("bounded 0", "bounded 0 can never be met: use at least 1 ms, or linearizable"),
        ("bounded 0 10", "bounded 0 can never be met"),
        ("session", "session needs a token: use the one that REPL.TOKEN returned"),
        ("session nonsense", "'nonsense' is not a token: use the one that REPL.TOKEN returned"),
    ],
)
def test_an_invalid_level_is_refused_with_the_valid_forms(line: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parse_level(line.split())


@given(
    st.sampled_from([EVENTUAL, LINEARIZABLE])
    | st.builds(Level, st.just(LevelKind.BOUNDED), st.integers(1, 10**9), st.integers(0, 10**9))
    | st.integers(0, 10**18 - 1).map(lambda at: Level(LevelKind.SESSION, token=Token(TIMELINE, Offset(at))))
)
def test_the_text_of_a_level_is_parsed_to_the_same_level(level: Level) -> None:
    words = str(level).split()
    assert parse_level(words) == (level, len(words))


@given(st.binary(min_size=16, max_size=16), st.integers(0, 10**18 - 1))
def test_an_encoded_token_is_decoded_to_the_same_token(timeline: bytes, offset: int) -> None:
    token = Token(timeline.hex(), Offset(offset))
    assert decode_token(encode_token(token)) == token


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        TIMELINE,
        f"{TIMELINE}:",
        f"{TIMELINE}:x",
        f"{TIMELINE}:-1",
        f"{TIMELINE}:1.0",
        f"{TIMELINE}: 1",
        f"{TIMELINE}:1:2",
        f"{TIMELINE}:{10**18}",
        f"{TIMELINE}:{'9' * 10_000}",
        f"{TIMELINE.upper()}:1",
        f"{TIMELINE[1:]}:1",
        f"{TIMELINE}0:1",
        f"{'g' * 32}:1",
        "7",
    ],
)
def test_an_invalid_token_is_refused_with_a_short_message(text: str) -> None:
    with pytest.raises(BadRequest, match="is not a token: use the one that REPL.TOKEN returned") as caught:  # noqa: RUF043
        decode_token(text)
    assert len(str(caught.value)) < 200


def test_a_token_of_another_timeline_is_refused() -> None:
    check_timeline(TOKEN, TIMELINE)
    with pytest.raises(Stale, match=f"{TIMELINE}, but this cluster is on timeline {'f' * 32}: it was restored"):
        check_timeline(TOKEN, "f" * 32)


INVALIDATE, SUSPEND, SYNC = (WriteMode.INVALIDATE, WriteMode.SUSPEND, WriteMode.SYNC)


def announced(seq: int, awaited: int = 1) -> Suspension:
    return Suspension(announced=Seq(seq), awaited=awaited)


def written(seq: int) -> Suspension:
    return Suspension(written=Seq(seq))


@pytest.mark.parametrize("mode", WriteMode)
def test_a_suspend_announces_its_keys_in_every_mode_until_each_is_written(mode: WriteMode) -> None:
    it = SuspendedKeys({})
    it.announce(Seq(5), [A, B, A])
    assert it.keys == {A: announced(5, awaited=2), B: announced(5)}
    if mode is not INVALIDATE:
        it.write(Seq(6), A, mode)
        assert it.keys == {A: announced(5), B: announced(5)}
        it.write(Seq(7), A, mode)
        assert it.keys == {B: announced(5)}


def test_a_suspend_replaces_earlier_announcements() -> None:
    it = SuspendedKeys({A: announced(3), B: announced(3), C: written(2)})
    it.announce(Seq(5), [B])
    assert it.keys == {B: announced(5), C: written(2)}
    it.announce(Seq(6), [])
    assert it.keys == {C: written(2)}


def test_a_write_in_invalidate_mode_suspends_its_keys() -> None:
    it = SuspendedKeys({B: announced(3, awaited=2)})
    it.write(Seq(5), A, INVALIDATE)
    it.write(Seq(6), A, INVALIDATE)
    it.write(Seq(7), B, INVALIDATE)  # announced before the mode changed: perhaps only this node has the new value
    assert it.keys == {A: written(6), B: Suspension(Seq(7), Seq(3), 1)}


@pytest.mark.parametrize("mode", [WriteMode.ASYNC, SYNC, SUSPEND])
def test_a_write_in_another_mode_suspends_no_keys(mode: WriteMode) -> None:
    it = SuspendedKeys({})
    it.write(Seq(5), A, mode)
    assert it.keys == {} and not it.changed


def test_a_release_resumes_the_keys_suspended_up_to_its_seq() -> None:
    it = SuspendedKeys({A: written(5), B: written(6), C: written(7)})
    it.release(Seq(6))
    assert it.keys == {C: written(7)}


def test_a_claim_ends_announcements_and_keeps_written_keys_suspended() -> None:
    it = SuspendedKeys({A: announced(5), B: written(4)})
    it.claim()
    assert it.keys == {B: written(4)}


def test_the_release_of_an_earlier_write_does_not_end_a_later_announcement() -> None:
    it = SuspendedKeys({})
    it.write(Seq(5), A, INVALIDATE)
    it.announce(Seq(7), [A])  # the mode changed to suspend at seq 6
    it.release(Seq(6))
    assert A in it.keys


def test_the_given_suspensions_are_not_modified() -> None:
    before = {A: announced(3), B: written(2)}
    it = SuspendedKeys(before)
    assert not it.changed
    it.announce(Seq(5), [A])
    it.write(Seq(6), A, SUSPEND)
    it.write(Seq(7), B, INVALIDATE)
    it.release(Seq(7))
    assert it.changed and it.keys == {}
    assert before == {A: announced(3), B: written(2)}


def test_a_read_is_blocked_unless_the_announcement_is_later_than_the_read() -> None:
    for since in (4, 5, 6):
        assert blocks(written(5), Seq(since))
    assert not blocks(announced(5), Seq(4))  # no client can have seen the write before the read
    assert blocks(announced(5), Seq(5)) and blocks(announced(5), Seq(6))


class StoreWriter:
    """Applies records to a store one by one."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def apply(self, *bodies: Single) -> None:
        for body in bodies:
            at = self.machine.state.offset + 1
            author = Author(NodeId("n1"), 7)
            state = LogState(b"t" * 16, Epoch(1), author, Seq(at + 1), b"c" * 8, Offset(at), Offset(at))
            self.machine.apply([body], state)


def set_(row: bytes, old: bytes | None, new: bytes) -> Write:
    return Write((Change("kv", row, b"", old, new),))


def membership(mode: WriteMode) -> Membership:
    return Membership((), Policy(mode))


HISTORY: Sequence[tuple[Single, dict[bytes, Suspension]]] = (
    (set_(b"a", None, b"s0"), {}),  # seq 1
    (membership(INVALIDATE), {}),
    (set_(b"a", b"s0", b"s1"), {A: written(3)}),
    (set_(b"b", None, b"s1"), {A: written(3), B: written(4)}),
    (Release(Seq(3)), {B: written(4)}),
    (Claim(Author(NodeId("n1"), 7), Epoch(2), Offset(4), Reason.ELECTION), {B: written(4)}),
    (Release(Seq(6)), {}),
    (membership(SUSPEND), {}),
    (Suspend((A, B)), {A: announced(9), B: announced(9)}),
    (set_(b"a", b"s1", b"s2"), {B: announced(9)}),
    (Suspend((C,)), {C: announced(11)}),
    (Claim(Author(NodeId("n1"), 7), Epoch(3), Offset(10), Reason.ELECTION), {}),
)


def test_a_store_has_the_suspended_keys_after_each_record(tmp_path: Path) -> None:
    machine = open_machine(tmp_path, "test", "topic")
    for body, suspended in HISTORY:
        StoreWriter(machine).apply(body)
        assert machine.suspended == suspended, body
    machine.close()


@pytest.mark.parametrize("count", range(1, len(HISTORY) + 1))
def test_suspended_keys_survive_a_restart_and_a_restore(tmp_path: Path, count: int) -> None:
    machine = open_machine(tmp_path / "store", "test", "topic")
    machine.apply(
        [body for body, _ in HISTORY[:count]],
        LogState(b"t" * 16, Epoch(1), Author(NodeId("n1"), 7), Seq(count), b"c" * 8, Offset(count), Offset(count)),
    )
    taken = snapshot.take(machine.copy_to, tmp_path / "snapshots")
    machine.close()
    restore_copy(tmp_path / "snapshots" / taken.name, tmp_path / "copy")
    for folder in ("store", "copy"):
        again = open_machine(tmp_path / folder, "test", "topic")
        assert again.suspended == HISTORY[count - 1][1], folder
        again.close()
