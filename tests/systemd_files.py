"""Reading files of systemd."""

from __future__ import annotations

from pathlib import Path


def environment_file(path: Path) -> dict[str, str]:
    """The variables of an `EnvironmentFile=` without quotes (systemd.exec(5))."""
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)
