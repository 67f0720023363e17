"""The lock on the folder of a store, and detection of a crash of the operating system.

LMDB runs without fsync. What a killed process wrote is safe in the page cache, but a crash of the operating system may
lose any part of it. So the folder contains a mark with the boot id while the store is open. A mark of another boot
means that the operating system crashed while the store was open. Such a store must not even be read: a page that is
missing in its file ends the process (SIGBUS).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from replicator.errors import ConfigError, StoreError
from replicator.store.durable import sync

MARK = "open-in-boot"
_LOCK = "owner.lock"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The id of this boot of the operating system (random(4)). Raises `ConfigError` if it is not Linux."""
    try:
        return _BOOT_ID.read_text().strip()
    except FileNotFoundError:
        raise ConfigError(
            f"nodes run on Linux only ({_BOOT_ID} is missing): use a container or a virtual machine. Commands with "
            "--connect and the Python client do not need Linux"
        ) from None


def lock(folder: Path) -> int:
    """Lock the folder for this process, until the returned descriptor is closed. Raises `StoreError`."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StoreError(
            f"{folder} is in use by another process: this node is already running. Stop that process first, or give "
            "this node another id and folder"
        ) from None
    return descriptor


def is_locked(folder: Path) -> bool:
    """Whether a process has locked the folder."""
    try:
        os.close(lock(folder))
    except StoreError:
        return True
    return False


def crashed(folder: Path, boot: str) -> bool:
    """Whether the operating system crashed while the store was open."""
    mark = folder / MARK
    return mark.exists() and mark.read_text() != boot


def is_marked(folder: Path) -> bool:
    return (folder / MARK).exists()


def mark_open(folder: Path, boot: str) -> None:
    """Call it before the store is opened."""
    (folder / MARK).write_text(boot)
    sync(folder / MARK)
    sync(folder)


def mark_closed(folder: Path) -> None:
    """Call it when everything is on the disk. The folder may have been deleted."""
    with contextlib.suppress(FileNotFoundError):
        (folder / MARK).unlink(missing_ok=True)
        sync(folder)
