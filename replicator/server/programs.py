"""What executes the programs that clients send or call, and what it keeps between two of them. One for each server."""

from __future__ import annotations

from replicator.server.scripts import Scripts


class Programs:
    def __init__(self) -> None:
        self.scripts = Scripts()
