"""A damaged store is replaced in steps: a process that is killed at any of them leaves no half store behind."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from replicator.errors import StoreError, StoreFull
from replicator.protocol.healing import Cause, Damage, Heal
from replicator.store import replacement
from replicator.store.replacement import NEW, QUARANTINE, STORE

BAD = Damage(Cause.DIVERGED, "it differs", 1, offset=9, timeline="ab", record=10)


class Killed(BaseException):
    pass


@contextmanager
def killed_before(step: int) -> Iterator[list[str]]:
    """The process is killed before this call that changes files. Yields the calls before it."""
    done: list[str] = []

    def counted(name: str, genuine: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if len(done) == step:
                raise Killed
            done.append(name)
            return genuine(*args, **options)

        return call

    names = ("rename", "replace", "mkdir", "fsync")
    with (
        patch.multiple(os, **{name: counted(name, getattr(os, name)) for name in names}),
        patch.object(shutil, "rmtree", counted("rmtree", shutil.rmtree)),
    ):
        yield done


def bad_store(folder: Path) -> None:
    (folder / STORE).mkdir()
    (folder / STORE / "data.mdb").write_text("bad")


def rebuild(folder: Path) -> None:
    """As `node.healing.Healer` does it."""
    damage = replacement.damage_of(folder)
    assert damage is not None
    (replacement.begin(folder) / "data.mdb").write_text("good")
    replacement.complete(folder, Heal(damage, "s1", 5, 2))


def content(folder: Path) -> str:
    return (folder / STORE / "data.mdb").read_text()


def run(folder: Path) -> None:
    """A process, which finds the store bad if it opens it."""
    replacement.recover(folder)
    if replacement.damage_of(folder) is None and content(folder) == "bad":
        replacement.mark_damaged(folder, BAD)
    if replacement.damage_of(folder) is not None:
        rebuild(folder)


def test_a_process_that_is_killed_at_any_step_leaves_a_store_that_can_be_trusted(tmp_path: Path) -> None:
    for step in range(100):
        folder = tmp_path / str(step)
        folder.mkdir()
        bad_store(folder)
        try:
            with killed_before(step) as done:
                run(folder)
        except Killed:
            run(folder)
        assert content(folder) == "good"
        assert replacement.damage_of(folder) is None and replacement.is_rebuilt(folder)
        assert not (folder / NEW).exists()
        kept = replacement.quarantined(folder)
        assert kept is not None and (kept / "data.mdb").read_text() == "bad"
        assert [it.damage for it in replacement.heals(folder)] in ([BAD], [BAD, BAD])
        if len(done) < step:
            break
    assert step > 10


def test_killed_twice(tmp_path: Path) -> None:
    for first in range(0, 20, 2):
        for second in range(0, 20, 2):
            folder = tmp_path / f"{first}-{second}"
            folder.mkdir()
            bad_store(folder)
            for step in (first, second):
                try:
                    with killed_before(step):
                        run(folder)
                except Killed:
                    pass
            run(folder)
            assert content(folder) == "good"
            assert (folder / QUARANTINE).exists()


def test_only_the_last_store_is_kept(tmp_path: Path) -> None:
    for number in range(3):
        shutil.rmtree(tmp_path / STORE, ignore_errors=True)
        (tmp_path / STORE).mkdir()
        (tmp_path / STORE / "data.mdb").write_text(f"bad {number}")
        replacement.mark_damaged(tmp_path, BAD)
        replacement.begin(tmp_path)
        replacement.complete(tmp_path, Heal(BAD, "", -1, 100 + number))
    [kept] = (tmp_path / QUARANTINE).iterdir()
    assert (kept / "data.mdb").read_text() == "bad 2"
    assert len(replacement.heals(tmp_path)) == 3


def test_an_empty_store_that_cannot_read_the_log_is_not_kept(tmp_path: Path) -> None:
    bad_store(tmp_path)
    trimmed = Damage(Cause.TRIMMED, "offset 0 was deleted", 1)
    replacement.mark_damaged(tmp_path, trimmed)
    replacement.begin(tmp_path)
    replacement.complete(tmp_path, Heal(trimmed, "s1", 5, 2))
    assert replacement.quarantined(tmp_path) is None and replacement.damage_of(tmp_path) is None


def test_a_mark_that_cannot_be_read_is_still_one(tmp_path: Path) -> None:
    bad_store(tmp_path)
    (tmp_path / STORE / "damaged.json").write_text("{")
    found = replacement.damage_of(tmp_path)
    assert found is not None and found.cause is Cause.UNREADABLE


def test_heals_that_cannot_be_read_are_forgotten(tmp_path: Path) -> None:
    assert replacement.heals(tmp_path) == []
    (tmp_path / "heals.json").write_text('[{"damage": 5}]')
    assert replacement.heals(tmp_path) == []


def test_a_full_disk(tmp_path: Path) -> None:
    bad_store(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with patch.object(replacement, "replace_file", side_effect=full), pytest.raises(StoreFull, match="free some space"):
        replacement.mark_damaged(tmp_path, BAD)
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with patch.object(replacement, "replace_file", side_effect=denied), pytest.raises(StoreError, match="writable"):
        replacement.mark_damaged(tmp_path, BAD)
    (tmp_path / QUARANTINE / "x").mkdir(parents=True)
    assert replacement.discard_quarantined(tmp_path)
    assert not replacement.discard_quarantined(tmp_path)
