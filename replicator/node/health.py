"""Whether this node serves reads, and if not, why.

    state         next                        by
    catching up   serving                     caught_up: all is applied that the log held when the node started
    serving       -
    waiting       catching up, or serving     resumed: a record was applied, or Kafka answers
    any of these  waiting                     blocked: Kafka does not answer, or the disk is full; it retries
    any of these  failed                      fail: only an operator can help; the error says how
    any of these  healing                     fail: the store must be rebuilt, and this process does that by itself
    healing       failed                      give_up: a rebuilt store would not help
    any of these  replaced                    replaced: another process has registered the id of this node
    any of these  stopped                     stop

`failed`, `healing`, `replaced` and `stopped` are final: such a node answers no reads. After `healing`, the process runs
another node, with another store (`node.healing`). A replaced node must not be restarted
automatically, because it would replace the other process. While it waits, a node that had caught up goes on answering
reads from its store.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import StrEnum

from replicator.errors import BadRequest, BrokerUnavailable, Loading, Replaced, ReplicatorError
from replicator.node.replica import Replica
from replicator.position import NodeId, Offset
from replicator.protocol.healing import cause_of
from replicator.records.types import Membership, Mode
from replicator.store.view import View

logger = logging.getLogger(__name__)


class NodeState(StrEnum):
    """The names of the states, as a status reports them."""

    CATCHING_UP = "catching up"
    SERVING = "serving"
    WAITING = "waiting"
    HEALING = "healing"
    FAILED = "failed"
    REPLACED = "replaced"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class CatchingUp:
    name = NodeState.CATCHING_UP
    trouble = ""


@dataclass(frozen=True, slots=True)
class Serving:
    name = NodeState.SERVING
    trouble = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    name = NodeState.WAITING
    error: ReplicatorError
    then: CatchingUp | Serving

    @property
    def trouble(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True)
class Failed:
    name = NodeState.FAILED
    error: ReplicatorError

    @property
    def trouble(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True)
class Healing:
    name = NodeState.HEALING
    error: ReplicatorError

    @property
    def trouble(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True)
class ReplacedBy:
    name = NodeState.REPLACED
    error: Replaced

    @property
    def trouble(self) -> str:
        return str(self.error)


@dataclass(frozen=True, slots=True)
class Stopped:
    name = NodeState.STOPPED
    trouble = ""


Health = CatchingUp | Serving | Waiting | Healing | Failed | ReplacedBy | Stopped


class NodeHealth:
    def __init__(self, node: NodeId, replica: Replica, *, heals: bool = False) -> None:
        """`heals`: whether the process rebuilds a damaged store."""
        self._node = node
        self._replica = replica
        self._heals = heals
        self._damaged = asyncio.Event()  # set in `healing`
        self._blocked = asyncio.Event()
        self._membership_seen = Membership()
        self._serves_clients = True  # as that membership says
        self.health: Health = CatchingUp()
        self.end_offset = replica.state.offset  # of the last record in the log that this node knows of

    @property
    def state(self) -> NodeState:
        return self.health.name

    @property
    def kafka_answers(self) -> bool:
        return not (isinstance(self.health, Waiting) and isinstance(self.health.error, BrokerUnavailable))

    def note_end(self, end: Offset) -> None:
        """The log was found to end before this offset."""
        self.end_offset = Offset(end - 1)

    def caught_up(self) -> None:
        match self.health:
            case CatchingUp():
                self.health = Serving()
            case Waiting(error):
                self.health = Waiting(error, Serving())

    def blocked(self, error: ReplicatorError) -> None:
        match self.health:
            case CatchingUp() | Serving() as before:
                logger.warning("%s", error)
                self.health = Waiting(error, before)
            case Waiting(former, then):
                if type(error) is not type(former):  # the words of an outage change, from one attempt to the next
                    logger.warning("%s", error)
                self.health = Waiting(error, then)
        self._blocked.set()

    def resumed(self) -> None:
        if isinstance(self.health, Waiting):
            logger.info("resumed after: %s", self.health.error)
            self.health = self.health.then

    def fail(self, error: ReplicatorError) -> None:
        if isinstance(self.health, Failed | Healing):
            return
        logger.critical("this node stops applying and serving: %s", error)
        if isinstance(self.health, ReplacedBy | Stopped):
            return
        if self._heals and cause_of(error) is not None:
            self.health = Healing(error)
            self._damaged.set()
        else:
            self.health = Failed(error)

    async def damaged(self) -> ReplicatorError:
        """Wait until the store must be rebuilt. Returns why."""
        while not isinstance(self.health, Healing):
            await self._damaged.wait()
        return self.health.error

    def give_up(self, error: ReplicatorError) -> None:
        if isinstance(self.health, Healing):
            logger.critical("the store cannot be rebuilt: %s", error)
            self._damaged.clear()
            self.health = Failed(error)

    def replaced(self, error: Replaced) -> None:
        logger.critical("this node stops applying and serving: %s", error)
        self.health = ReplacedBy(error)

    def stop(self) -> None:
        if not isinstance(self.health, Failed | Healing | ReplacedBy):
            self.health = Stopped()

    async def resume_when_applied(self) -> None:
        """Run until cancelled: `waiting` ends when a record is applied."""
        while True:
            await self._blocked.wait()
            self._blocked.clear()
            await self._replica.changed()
            self.resumed()

    def check(self) -> None:
        """Raises the error of a node that has failed, is damaged, or was replaced."""
        if isinstance(self.health, Failed | Healing | ReplacedBy):
            raise self.health.error

    def store(self) -> View:
        """The current state of the store.

        Raises `Loading`, `BadRequest` (snapshotter), and the error of a failed or replaced node.
        """
        health = self.health
        then = health.then if isinstance(health, Waiting) else health
        self.check()
        if isinstance(health, Stopped):  # a write that this node has sent may be in the log, and not in the store
            raise Loading(f"{self._node} is stopping: ask another node")
        if isinstance(then, CatchingUp):
            offset = self._replica.state.offset
            raise Loading(f"the node reads the log: at offset {offset} of {self.end_offset}. {health.trouble}".strip())
        if not self.serves_clients:
            raise BadRequest(f"{self._node} is a snapshotter, which serves no clients: ask another node")
        return self._replica.machine.view

    @property
    def serves_clients(self) -> bool:
        """Whether this node is not a snapshotter."""
        membership = self._replica.machine.meta.membership
        if membership is not self._membership_seen:
            self._membership_seen = membership
            own = membership.get(self._node)
            self._serves_clients = own is None or own.mode is not Mode.SNAPSHOTTER
        return self._serves_clients
