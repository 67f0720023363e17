"""The states of a connection that waits before it runs its next command. It waits for one thing at a time.

    state        resumed by                                  then
    None         -                                           the next command runs
    OwnWrites    its last pending reply has become ready     its command runs again
    ViewAt       the future, shared with other connections   the read is answered, or goes on as `Work`
    Work         the end of the task, which has replied      the next command runs
    OthersTurn   `Turns`, in a later slice of time           the next command runs
    Closing      its last pending reply has become ready     Closed
    Closed       -

Only a connection that waits for nothing begins to wait, but any can become Closing or Closed. Replies are pending in
OwnWrites, OthersTurn and Closing only, besides None.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple, TypeAlias

from replicator.protocol.levels import Level
from replicator.server.redis.command import Args, Command
from replicator.store.view import View


class OwnWrites(NamedTuple):
    """The command may run once no write of this connection is unacknowledged."""

    args: Args


class ViewAt(NamedTuple):
    """A read waits until the store meets its level."""

    future: asyncio.Future[View]
    level: Level | None
    command: Command
    args: Args


class Work(NamedTuple):
    """A command that takes time, and sends its reply itself."""

    task: asyncio.Task[None]
    is_read: bool


class OthersTurn(NamedTuple):
    """The slice of time for commands is used up."""


class Closing(NamedTuple):
    """No further command runs. The pending replies are still sent."""


class Closed(NamedTuple):
    pass


WaitState: TypeAlias = OwnWrites | ViewAt | Work | OthersTurn | Closing | Closed | None
