"""The error about data of a format that this program does not know yet. docs/compatibility.md lists the formats."""

from __future__ import annotations

from replicator import __version__


def describe_newer(what: str, format: int, known: int, written_by: str = "") -> str:
    """`written_by`: the version of the program that wrote it; empty: not known."""
    install = f"install replicator {written_by} or a later version" if written_by else "install a newer replicator"
    return f"{what} has format {format}, but this program (replicator {__version__}) reads up to {known}: {install}"
