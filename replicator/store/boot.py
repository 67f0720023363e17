"""Whose store it is, and whether it can be trusted.

LMDB runs without fsync: what a killed process had written is in the page cache and safe, what a crashed operating
system had not written back is lost, perhaps in part. So a mark with the boot id stands in the folder while the store
is open; a mark of another boot means that the system went down under it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from replicator.errors import StoreError

MARK = "open-in-boot"
_OWNER = "owner.lock"


def boot_id() -> str:
    """Random id of this run of the operating system (Linux: random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def own(folder: Path) -> int:
    """Lock the folder for this process until the descriptor returned is closed. Raises `StoreError`."""
    descriptor = os.open(folder / _OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"{folder} is in use by another process: this node runs already. Stop that one first, or give this "
            "node another id and folder"
        ) from None
    return descriptor


def crashed(folder: Path, boot: str) -> bool:
    """Whether the operating system went down while the store was open."""
    mark = folder / MARK
    return mark.exists() and mark.read_text() != boot


def mark_open(folder: Path, boot: str) -> None:
    (folder / MARK).write_text(boot)


def mark_closed(folder: Path) -> None:
    """To be called once everything is on the disk."""
    (folder / MARK).unlink(missing_ok=True)
