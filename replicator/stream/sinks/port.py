"""The port of a sink: what copies the change stream to another system."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from replicator.errors import ReplicatorError
from replicator.stream.change import Change
from replicator.stream.position import StreamPosition


class SinkUnavailable(ReplicatorError):
    """The target does not answer, or cannot take changes now; try again, not before `retry_after_s`."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class SinkFailed(ReplicatorError):
    """The target refuses the changes, or its checkpoint: trying again would not help."""


class Sink(Protocol):
    """Used by one thread. `open` comes first, also after `SinkUnavailable`, which may have lost the connection.

    The checkpoint is the position up to which the target has the changes; a write may advance it later, but never
    beyond the changes that would survive a kill of the process.
    """

    def open(self) -> StreamPosition | None:
        """The checkpoint; None if there is none yet. What an unfinished write has left behind is removed.

        Raises `SinkUnavailable`, `SinkFailed`, `ConfigError`.
        """
        ...

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        """`position`: after these changes, which may be none. Raises `SinkUnavailable`, `SinkFailed`.

        After `SinkUnavailable`, the changes may have been written: `open` says so.
        """
        ...

    def tick(self) -> None:
        """Called about once a second, also while there are no changes: do what is due by time. Raises `SinkFailed`."""
        ...

    def delete_checkpoint(self) -> None:
        """Instead of `open`. The data stays. Raises as `open`."""
        ...

    def close(self) -> None:
        """Also after an error. What was written is in the target, with its checkpoint. Raises `SinkFailed`."""
        ...
