"""Temporary stores: of commands that read the past."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicator.errors import StoreError
from replicator.store import boot

_PREFIX = "store-"


@contextmanager
def temporary_store(parent: Path) -> Iterator[Path]:
    """The folder of a store that is removed at the end. Those of processes that were killed are removed first."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for left in parent.glob(f"{_PREFIX}*"):
        if not _is_used(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    in_use = boot.lock(folder)
    try:
        yield folder / "store"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(in_use)
        with contextlib.suppress(OSError):  # others may use it
            parent.rmdir()


def _is_used(folder: Path) -> bool:
    try:
        os.close(boot.lock(folder))
    except StoreError:
        return True
    except OSError:
        return False
    return False
