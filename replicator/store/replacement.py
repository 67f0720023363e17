"""Replaces the store of a node by a rebuilt one, in steps that a killed process can repeat.

<folder>/store/damaged.json      the store must not be opened any more: it is to be replaced
         store.new/              the new store; it is complete once it has
         store.new/healed.json   how it was made
         quarantine/NAME/        the last store that was replaced, for inspection
         heals.json              the last `KEPT_HEALS` replacements

step                                     a killed process
mark the store                           opens it again, and finds the damage again
build the new one                        builds it again
note how, in healed.json and heals.json  goes on here (`recover`)
move the old store to quarantine/        goes on here
move the new one to its place            starts with it
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicator.errors import StoreError, StoreFull
from replicator.protocol.healing import Cause, Damage, Heal
from replicator.store.durable import replace_file, sync
from replicator.store.environment import DAMAGED, is_full

STORE, NEW, QUARANTINE, HEALS = "store", "store.new", "quarantine", "heals.json"
KEPT_HEALS = 20
_HEALED = "healed.json"


def mark_damaged(folder: Path, damage: Damage) -> None:
    """`folder`: of the node, as below. Raises `StoreError`."""
    try:
        (folder / STORE).mkdir(mode=0o700, exist_ok=True)  # it may have been deleted
        replace_file(folder / STORE / DAMAGED, json.dumps(asdict(damage)).encode())
    except OSError as error:
        raise file_error(folder, error) from error


def damage_of(folder: Path) -> Damage | None:
    """Why the store must be replaced before it is opened; None: it need not. Raises `StoreError`."""
    mark = folder / STORE / DAMAGED
    try:
        return _damage(json.loads(mark.read_text())) if mark.exists() else None
    except OSError as error:
        raise file_error(folder, error) from error
    except (ValueError, TypeError, KeyError):  # of another version: that it exists is what matters
        return Damage(Cause.UNREADABLE, f"{mark} says so", 0)


def begin(folder: Path) -> Path:
    """An empty folder for the new store. Raises `StoreError`."""
    new = folder / NEW
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
    except OSError as error:
        raise file_error(folder, error) from error
    return new


def complete(folder: Path, heal: Heal) -> None:
    """The new store is ready: put it in the place of the old one. Raises `StoreError`; call it again then."""
    try:
        _append(folder, heal)
        replace_file(folder / NEW / _HEALED, json.dumps(asdict(heal)).encode())
        _swap(folder, heal)
    except OSError as error:
        raise file_error(folder, error) from error


def recover(folder: Path) -> None:
    """Finish what a killed process had begun. Raises `StoreError`."""
    new, store = folder / NEW, folder / STORE
    try:
        if (new / _HEALED).exists() and ((store / DAMAGED).exists() or not store.exists()):
            _swap(folder, _heal(json.loads((new / _HEALED).read_text())))
        elif new.exists():
            shutil.rmtree(new)
    except OSError as error:
        raise file_error(folder, error) from error


def is_rebuilt(folder: Path) -> bool:
    """Whether the store replaced another one, so it has followed a log even if it is empty."""
    return (folder / STORE / _HEALED).exists() or (folder / STORE / DAMAGED).exists()


def heals(folder: Path) -> list[Heal]:
    """The last replacements, the latest last. Those that cannot be read are left out."""
    try:
        return [_heal(it) for it in json.loads((folder / HEALS).read_text())]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def quarantined(folder: Path) -> Path | None:
    """The last store that was replaced, if it still exists."""
    found = sorted((folder / QUARANTINE).glob("*"))
    return found[-1] if found else None


def discard_quarantined(folder: Path) -> bool:
    """Make space on a full disk. Returns whether there was anything to remove."""
    found = quarantined(folder)
    shutil.rmtree(folder / QUARANTINE, ignore_errors=True)
    return found is not None


def file_error(folder: Path, error: OSError) -> StoreError:
    if is_full(error):
        return StoreFull(
            f"the store in {folder} cannot be rebuilt, because its disk is full or failing ({error.strerror}): free "
            "some space"
        )
    return StoreError(f"the store in {folder} cannot be rebuilt ({error}): make this folder writable")


def _append(folder: Path, heal: Heal) -> None:
    before = heals(folder)
    kept: Sequence[Heal] = [*before, heal][-KEPT_HEALS:] if heal not in before else before
    replace_file(folder / HEALS, json.dumps([asdict(it) for it in kept], indent=2).encode() + b"\n")


def _swap(folder: Path, heal: Heal) -> None:
    store, quarantine = folder / STORE, folder / QUARANTINE
    if store.exists() and heal.damage.cause is Cause.TRIMMED and heal.damage.offset < 0:
        shutil.rmtree(store)  # it is empty
    elif store.exists():
        quarantine.mkdir(mode=0o700, exist_ok=True)
        name = f"{heal.healed_at_ms:015d}-{heal.damage.cause}"
        os.rename(store, quarantine / name)
        sync(quarantine)
        sync(folder)
        for former in quarantine.iterdir():
            if former.name != name:
                shutil.rmtree(former, ignore_errors=True)
    os.rename(folder / NEW, store)
    sync(folder)


def _damage(fields: dict[str, Any]) -> Damage:
    return Damage(**{**fields, "cause": Cause(fields["cause"])})


def _heal(fields: dict[str, Any]) -> Heal:
    return Heal(**{**fields, "damage": _damage(fields["damage"])})
