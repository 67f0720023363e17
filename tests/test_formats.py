"""Data of a newer format are refused, and left as they are. docs/compatibility.md says which version reads which."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from replicator import __version__, formats
from replicator.errors import StoreError, UpgradeNeeded
from replicator.protocol.healing import cause_of
from replicator.records.types import VERSION
from replicator.store.environment import open_environment
from replicator.store.machine import open_machine
from replicator.store.meta import FORMAT, Meta, decode_meta
from replicator.stream.envelope import StreamFormat
from replicator.stream.settings import STATE_VERSION, StreamSettings
from tests.test_store import state_at, write

ROOT = Path(__file__).parents[1]
SETTINGS = StreamSettings("topic", "log", StreamFormat.JSON)


def test_the_error_names_the_version_that_reads_it() -> None:
    assert formats.describe_newer("the store", 2, 1, "0.7.0") == (
        f"the store has format 2, but this program (replicator {__version__}) reads up to 1: install replicator 0.7.0 "
        "or a later version"
    )
    assert formats.describe_newer("a record", 4, 3).endswith("reads up to 3: install a newer replicator")


def test_a_newer_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """Not healed: a node that was downgraded must not destroy it."""
    machine = open_machine(tmp_path, "shop", "topic")
    machine.apply([write(b"row", None, b"s1")], state_at(7))
    meta = machine.meta.encode()
    machine.close()
    newer = json.dumps({**json.loads(meta), "format": FORMAT + 1, "written_by": "9.1"}).encode()
    environment = open_environment(tmp_path, 1 << 20)
    database = environment.open_db(b"meta")
    with environment.begin(write=True) as transaction:
        [key] = [key for key, value in transaction.cursor(database) if value == meta]
        transaction.put(key, newer, db=database)
    environment.close()
    for _ in range(2):
        with pytest.raises(
            StoreError, match=r"install replicator 9\.1 or a later version, or move its folder"
        ) as raised:
            open_machine(tmp_path, "shop", "topic")
        assert cause_of(raised.value) is None
    environment = open_environment(tmp_path, 1 << 20)
    with environment.begin(db=environment.open_db(b"meta")) as transaction:
        assert transaction.get(key) == newer
    environment.close()


def test_a_store_of_a_former_format_is_built_again() -> None:
    fields = json.loads(Meta("c", "topic").encode())
    with pytest.raises(StoreError, match=r"format 0, which this program .* does not read: move its folder away"):
        decode_meta(json.dumps({**fields, "format": FORMAT - 1}).encode())


def test_the_state_of_a_newer_change_stream_is_refused() -> None:
    newer = replace(SETTINGS, version=STATE_VERSION + 1, written_by="9.1").encode()
    with pytest.raises(UpgradeNeeded, match=r"the change stream has format 2, .* install replicator 9\.1 or a later"):
        StreamSettings.decode(newer)
    with_surprises = {**json.loads(newer), "surprise": 1, "format": "xml"}
    with pytest.raises(UpgradeNeeded):
        StreamSettings.decode(json.dumps(with_surprises).encode())


def test_the_state_of_the_first_change_streams_is_read() -> None:
    fields = json.loads(SETTINGS.encode())
    del fields["version"], fields["written_by"]
    assert StreamSettings.decode(json.dumps(fields).encode()).version == 1


def test_the_table_of_versions_has_this_one() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text()
    [row] = re.findall(rf"^\| {re.escape(__version__)} \|(.*)\|$", page, re.MULTILINE)
    assert [it.strip() for it in row.split("|")] == [f"1 to {VERSION}", str(FORMAT), str(FORMAT), str(STATE_VERSION)]
