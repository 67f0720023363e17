"""Where a user's files go, after the XDG base directory specification."""

from __future__ import annotations

import os
from pathlib import Path

from replicator.config import expanded


def cache_dir() -> Path:
    """For what can be downloaded again: `$REPLICATOR_CACHE`, or `replicator` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises `ConfigError`.
    """
    own = os.environ.get("REPLICATOR_CACHE")
    return expanded("REPLICATOR_CACHE", own) if own else _xdg("XDG_CACHE_HOME", ".cache")


def default_broker_dir() -> Path:
    """The default folder of the broker: `replicator/broker` in `$XDG_DATA_HOME` or `~/.local/share`."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "broker"


def state_dir() -> Path:
    """For histories and the like: `replicator` in `$XDG_STATE_HOME` or `~/.local/state`."""
    return _xdg("XDG_STATE_HOME", ".local/state")


def _xdg(variable: str, below_home: str) -> Path:
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / below_home) / "replicator"
