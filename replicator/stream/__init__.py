"""The change stream: what changed, in the order of the log, for other programs. docs/stream.md describes it.

`ChangeStream` is for asyncio, `BlockingChangeStream` is a plain iterator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.store.rows import Image
from replicator.stream.change import Change, Op, Position, Source, TransactionBlock
from replicator.stream.checkpoints import Checkpoints, FileCheckpoints, PostgresCheckpoints, RedisCheckpoints
from replicator.stream.position import Start, StreamEnd, StreamPosition
from replicator.stream.sync import BlockingChangeStream

if TYPE_CHECKING:
    from replicator.stream.aio import ChangeStream

__all__ = [
    "BlockingChangeStream",
    "Change",
    "ChangeStream",
    "Checkpoints",
    "FileCheckpoints",
    "Image",
    "Op",
    "Position",
    "PostgresCheckpoints",
    "RedisCheckpoints",
    "Source",
    "Start",
    "StreamEnd",
    "StreamPosition",
    "TransactionBlock",
]


def __getattr__(name: str) -> Any:
    """Import aiokafka only for those who use it: a publisher does not."""
    if name == "ChangeStream":
        from replicator.stream.aio import ChangeStream

        return ChangeStream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
