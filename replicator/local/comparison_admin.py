"""The part of the admin API of a node that serves a comparison of all stores (`server.http.comparison`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replicator.local.admin_client import NodeAdmin


@dataclass(frozen=True, slots=True)
class DigestedRange:
    digest: str
    entries: int
    is_complete: bool = True  # False: it has more entries, which are not in the digest
    start: str = ""  # store keys in hexadecimal digits
    stop: str = ""  # exclusive; empty: the end of the store


@dataclass(frozen=True, slots=True)
class ComparisonAdmin:
    """Every request raises `NodeUnreachable` or `NodeRefused`."""

    node: NodeAdmin
    id: str

    def begin(self) -> None:
        self.node.compare("PUT", "/comparison", {"id": self.id})

    def checkpoint(self) -> int:
        """For the leader: the offset of a new checkpoint."""
        return int(self._post("checkpoint")["offset"])

    def state(self, offset: int) -> tuple[str, int] | None:
        """Digest and number of entries that the store has written down; None: it is not there yet."""
        reply = self._post("state", offset=offset)
        return (reply["digest"], reply["entries"]) if reply["applied"] else None

    def split(self, offset: int, start: str, stop: str, entries: int) -> list[DigestedRange]:
        reply = self._post("split", offset=offset, start=start, stop=stop, entries=entries)
        return [DigestedRange(it["digest"], it["entries"], True, it["start"], it["stop"]) for it in reply["ranges"]]

    def digests(self, offset: int, bounds: Sequence[str]) -> list[DigestedRange]:
        reply = self._post("ranges", offset=offset, bounds=list(bounds))
        return [DigestedRange(it["digest"], it["entries"], it["is_complete"]) for it in reply["ranges"]]

    def entries(self, offset: int, start: str, stop: str, limit: int) -> tuple[list[tuple[str, str]], bool]:
        """Keys and digests, and whether these are all of the range."""
        reply = self._post("entries", offset=offset, start=start, stop=stop, limit=limit)
        return [(it["key"], it["digest"]) for it in reply["entries"]], reply["are_all"]

    def end(self) -> None:
        self.node.compare("DELETE", f"/comparison/{self.id}", None)

    def _post(self, what: str, **fields: Any) -> Any:
        return self.node.compare("POST", f"/comparison/{what}", {"id": self.id, **fields})
