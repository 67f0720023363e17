"""The results of nondeterministic calls: recorded once, and repeated elsewhere in the same order."""

from __future__ import annotations

import pytest

from replicator.errors import Diverged
from replicator.limits import MAX_TAPE_BYTES, MAX_TAPE_CALLS
from replicator.records.tape import Call, Player, Recorder, TapeFull, TapeValue

RESULTS: list[TapeValue] = [5, 0.5, "text", b"bytes", None]


def never() -> int:
    raise AssertionError("called again")


def recorded() -> list[Call]:
    tape = Recorder()
    for number, result in enumerate(RESULTS):
        assert tape.call(f"f{number}", lambda result=result: result) == result  # type: ignore[misc]
    return tape.calls


def test_results_are_repeated_in_order() -> None:
    player = Player(recorded())
    assert [player.call(f"f{number}", never) for number in range(len(RESULTS))] == RESULTS
    player.finish()


def test_another_function() -> None:
    with pytest.raises(Diverged, match=r"called now\(\) here, but f0\(\) at the leader"):
        Player(recorded()).call("now", never)


def test_a_call_too_many() -> None:
    with pytest.raises(Diverged, match=r"called f0\(\) here, which it had not done"):
        Player([]).call("f0", never)


def test_a_call_too_few() -> None:
    player = Player(recorded())
    player.call("f0", never)
    with pytest.raises(Diverged, match=r"called f1\(\) at the leader, which it has not done here"):
        player.finish()


def test_a_tape_is_bounded() -> None:
    tape = Recorder()
    for _ in range(MAX_TAPE_CALLS):
        tape.call("random", lambda: 1)
    with pytest.raises(TapeFull, match="split it"):
        tape.call("random", lambda: 1)
    with pytest.raises(TapeFull, match="KiB"):
        Recorder().call("randomblob", lambda: bytes(MAX_TAPE_BYTES + 1))


def test_calls_that_are_cut_take_no_space() -> None:
    """A statement that is executed again, or rolled back, makes its calls once more."""
    tape = Recorder()
    for _ in range(3):
        mark = tape.mark()
        tape.call("randomblob", lambda: bytes(MAX_TAPE_BYTES - 8))
        tape.cut(mark)
    tape.call("random", lambda: 1)
    tape.call("randomblob", lambda: bytes(MAX_TAPE_BYTES - 8))
    with pytest.raises(TapeFull):
        tape.call("random", lambda: 1)
