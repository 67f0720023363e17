"""Damages stores as a faulty disk does."""

from __future__ import annotations

import os
from pathlib import Path


def flip(store: Path, content: bytes) -> int:
    """Change one byte wherever the file of a store has `content`, open or not. Returns how often that was."""
    with open(store / "data.mdb", "r+b") as file:
        data, found, at = file.read(), 0, -1
        while (at := data.find(content, at + 1)) >= 0:
            os.pwrite(file.fileno(), bytes([content[-1] ^ 1]), at + len(content) - 1)
            found += 1
    return found
