"""One simulation of a cluster: from a seed to the report of the checkers."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from replicator.errors import StoreError
from replicator.intervals import TRUNCATED_MS
from replicator.node.health import NodeState
from replicator.position import AUTO, BEFORE_LOG, GOSSIP, LEADER, NodeId, Offset, Token
from replicator.protocol.pace import ALWAYS_STEADY
from replicator.protocol.timing import MAX_DRIFT
from replicator.protocol.upstream import UpstreamRule
from replicator.records.codec import RecordCodec
from replicator.records.types import Timing, WriteMode
from replicator.sql import functions
from replicator.testing import faults as fault_plans
from replicator.testing.checks import (
    acks,
    answers,
    claims,
    expiry,
    leases,
    levels,
    once,
    order,
    processes,
    replicas,
    sessions,
    tables,
    watches,
    writes,
)
from replicator.testing.checks.canonical import read_log
from replicator.testing.checks.eras import Era, eras_of
from replicator.testing.checks.execution import Executions
from replicator.testing.clients import SimClient
from replicator.testing.cluster import SimNode
from replicator.testing.history import History, Outcome
from replicator.testing.kafka import Kafka
from replicator.testing.loop import SimLoop, Stuck
from replicator.testing.nemesis import FAULT_EVENTS, Nemesis
from replicator.testing.observer import Observer, Sample
from replicator.testing.operator import Operator
from replicator.testing.recovery import refused_for_good
from replicator.testing.sql_clients import SqlClient
from replicator.testing.timings import IDLE_THINK_MS, QUICKLY_IDLE, draw_timing

SET_UP_S = 3.0  # virtual
SETTLE_S = 30.0  # virtual: after the last fault, until there is one leader and all nodes have caught up
SETTLE_AFTER_LOSS_S = SETTLE_S + TRUNCATED_MS / 1000 * (1 + MAX_DRIFT)
NOTICE_S = 3.0  # virtual: until every node has read a record that follows a loss
GOSSIP_RANGE_SEQS = 8
_EXTRA_STEPS = 400_000  # to recover and settle after the faults end


@dataclass(frozen=True, slots=True)
class SimulationPlan:
    """Equal plans give equal histories."""

    seed: int
    steps: int = 4000  # callbacks that run before the faults end
    nodes: int = 3
    timing: Timing | None = None  # of all nodes' configs; None: drawn, usually a different one for each node
    writes: WriteMode | None = None  # the write mode for most of the time; None: drawn
    loss: bool | None = None  # whether Kafka loses acknowledged records; None: drawn
    idle: bool = False  # whether clients pause for long, and leaders are idle then
    cascade: bool = False  # whether followers may receive records from each other
    gossip: bool = False  # whether all do
    sql: bool = False  # whether clients execute statements, too, and the log has commands
    events: tuple[str, ...] = ()  # only these of `nemesis.EVENTS`; by default some of `FAULT_EVENTS` are drawn

    @property
    def command(self) -> str:
        writes = f" --writes {self.writes}" if self.writes else ""
        loss = {None: "", True: " --loss", False: " --no-loss"}[self.loss]
        events = f" --events '{','.join(self.events)}'" if self.events else ""
        idle = " --idle" if self.idle else ""
        cascade = " --cascade" if self.cascade else ""
        gossip = " --gossip" if self.gossip else ""
        sql = " --sql" if self.sql else ""
        options = f"--steps {self.steps} --nodes {self.nodes}{writes}{loss}{idle}{cascade}{gossip}{sql}{events}"
        return f"replicator simulate --seed {self.seed} {options}"

    def upstreams(self, names: Sequence[str]) -> list[UpstreamRule]:
        """Of which each process has one."""
        if self.gossip:
            return [UpstreamRule(GOSSIP, fanout, range_seqs=GOSSIP_RANGE_SEQS) for fanout in (1, 2)]
        return [UpstreamRule(wanted) for wanted in ((AUTO, *names) if self.cascade else (LEADER,))]


@dataclass(slots=True)
class SimulationReport:
    plan: SimulationPlan
    problems: list[str] = field(default_factory=list)
    fingerprint: str = ""  # sha256 of the trace and of the log
    outcomes: dict[str, int] = field(default_factory=dict)
    records: int = 0
    commands: int = 0  # records of commands
    epochs: int = 0
    lost_records: int = 0  # acknowledged, and lost by Kafka
    steps: int = 0
    virtual_s: float = 0.0

    def __str__(self) -> str:
        counted = ", ".join(f"{count} {name}" for name, count in sorted(self.outcomes.items()))
        lost = f", {self.lost_records} lost" if self.lost_records else ""
        head = (
            f"seed {self.plan.seed}: {self.virtual_s:.1f} s, {self.steps} steps, {self.records} records, "
            f"{self.epochs} epochs{lost}; {counted}"
        )
        if not self.problems:
            return head
        return "\n".join((head, *self.problems[:20], f"replay with: {self.plan.command} --trace"))


def run(plan: SimulationPlan, on_trace: Callable[[str], None] = lambda line: None) -> SimulationReport:
    """Run one simulation and check it. `on_trace` is called with one line for each event."""
    home = Path("/dev/shm")
    source, functions.source = functions.source, random.Random(f"drawn {plan.seed}")
    folder = Path(tempfile.mkdtemp(prefix="replicator-sim-", dir=home if home.is_dir() else None))
    gc.collect()
    gc.disable()  # the finalizers of an earlier run would schedule callbacks in the loop of this one
    try:
        return _Simulation(plan, folder, on_trace).play()
    finally:
        functions.source = source
        gc.enable()
        shutil.rmtree(folder)


class _Simulation:
    def __init__(self, plan: SimulationPlan, folder: Path, on_trace: Callable[[str], None]) -> None:
        rng = self._rng = random.Random(plan.seed)
        self.plan = plan
        self.loop = SimLoop(rng)  # type: ignore[abstract]  # it has no sockets, signals, threads or subprocesses
        self.history = History()
        self._on_trace = on_trace
        self._hash = hashlib.sha256()
        faults = fault_plans.draw(rng, tuple(FAULT_EVENTS), only=plan.events, loss=plan.loss)
        self.kafka = Kafka(self.loop, rng, faults, self.trace)
        names = [f"n{i + 1}" for i in range(plan.nodes)]
        peers: dict[str, SimNode] = {}
        pace = QUICKLY_IDLE if plan.idle else ALWAYS_STEADY
        for priority, name in enumerate(names):
            timing = plan.timing or draw_timing(rng)
            upstreams = plan.upstreams(names)
            peers[name] = SimNode(name, priority, folder / name, self.kafka, timing, peers, pace, upstreams)
        self.nodes = list(peers.values())
        self.observer = Observer(self.loop.time, self.trace)
        self.loop.after_step = self.observer.after_step
        drawn = rng.choice(list(WriteMode))
        self._served_last: list[Sample] = []  # the stores of the nodes that serve at the end
        self._sql_rng = random.Random(f"sql {plan.seed}")
        self._copies_rng = random.Random(f"copies {plan.seed}")
        replication = self._sql_rng if plan.sql else None
        self.operator = Operator(self.nodes, self.loop, rng, plan.writes or drawn, self.trace, replication)
        self.nemesis = Nemesis(self.nodes, self.kafka, rng, self.observer, self.operator, self.trace)
        self._keys = rng.choice((1, 3))
        self.clients = [self._new_client(f"c{i}") for i in range(rng.choice((2, 5, 10)))]
        self.trace(f"{self.kafka.faults}")
        for node in self.nodes:
            self.trace(f"{node.name}: clock runs at {node.clock.rate:.4f}, configured with {node.timing}")

    def _new_client(self, name: str) -> SimClient:
        think_ms = IDLE_THINK_MS if self.plan.idle else None
        kind = SqlClient if self.plan.sql else SimClient
        return kind(name, self._keys, self.nodes, self.loop, self._rng, self.history, self.trace, think_ms)

    def trace(self, what: str) -> None:
        line = f"{self.loop.time():12.6f}  {what}"
        self._hash.update(line.encode() + b"\n")
        self._on_trace(line)

    def play(self) -> SimulationReport:
        report = SimulationReport(self.plan)
        try:
            self.loop.run(self._main(report.problems), self.plan.steps + _EXTRA_STEPS)
        except Stuck as stuck:
            report.problems.append(f"the simulation is stuck: {stuck}")
            return report
        except StoreError as error:
            report.problems.append(f"a node cannot start: {error}")
            return report
        report.problems.extend(self._check(report))
        report.fingerprint = self._fingerprint()
        report.steps, report.virtual_s = self.loop.steps, self.loop.time()
        for request in self.history.requests:
            outcome = str(request.outcome or Outcome.UNKNOWN)
            report.outcomes[outcome] = report.outcomes.get(outcome, 0) + 1
        return report

    async def _main(self, problems: list[str]) -> None:
        for node in self.nodes:
            self.nemesis.start(node)
        setting_up = asyncio.create_task(self.operator.set_up())
        await asyncio.wait([setting_up], timeout=SET_UP_S)  # message faults may delay it further
        disturbing = asyncio.create_task(self.nemesis.run())
        rebuilding = asyncio.create_task(self.nemesis.rebuild_failed_nodes())
        requesting = [asyncio.create_task(client.run()) for client in self.clients]
        sql_faults: list[asyncio.Task[None]] = []
        if self.plan.sql:
            for work in (self.operator.change_replication(), self.nemesis.reserve_for_copies(self._copies_rng)):
                sql_faults.append(asyncio.create_task(work))
        end = self.loop.steps + self.plan.steps
        while self.loop.steps < end:  # noqa: ASYNC110 (virtual time)
            await asyncio.sleep(0.01)
        self.trace("faults end")
        self.kafka.faults = fault_plans.NO_FAULTS
        self.kafka.heal()
        self.nemesis.stopping = True
        for task in sql_faults:
            task.cancel()
        for client in self.clients:
            client.stopping = True
        await disturbing
        for node in self.nodes:
            if node.life is not None:  # it is being rebuilt otherwise, and gets a new link
                node.life.link.heal()
        await asyncio.wait(requesting)
        problems.extend(await self._settle())
        if not problems and not self._is_log_damaged():
            restart = self.nemesis.restart_replaced
            problems.extend(await refused_for_good(self.nodes, self._new_client, self._last_token(), restart))
            await setting_up
        for task in (setting_up, rebuilding):
            task.cancel()
        for node in self.nodes:
            if node.life is None:
                continue
            if node.life.node.state is NodeState.SERVING:
                self._served_last.append(self.observer.sample(node.life))
            await self.nemesis.kill(node)

    def _last_token(self) -> Token:
        """Of any client; an empty one if Kafka has lost records, as the last token may be of one of them."""
        if self.kafka.partition.losses:
            return Token("", BEFORE_LOG)
        return max((client.token for client in self.clients), key=lambda token: token.offset)

    async def _settle(self) -> list[str]:
        """Wait until all nodes serve and there is one leader. Returns the problems that remain at the deadline."""
        deadline_s = self.loop.time() + SETTLE_S
        if self.kafka.partition.losses:
            deadline_s = self.loop.time() + SETTLE_AFTER_LOSS_S
            await asyncio.sleep(NOTICE_S)
        while unsettled := self._unsettled():
            if self.loop.time() > deadline_s:
                return unsettled
            await self.nemesis.restart_replaced()
            await asyncio.sleep(0.05)
        return []

    def _unsettled(self) -> list[str]:
        lives = [(node.name, node.life) for node in self.nodes if node.life is not None]
        unanswered = [f"{life.unanswered} requests at {name} are unanswered" for name, life in lives if life.unanswered]
        stopped = [f"{node.name} is not running" for node in self.nodes if node.life is None]
        ended = stopped + [f"{name} has ended: {life.task}" for name, life in lives if life.task.done()]
        if self._is_log_damaged():
            serving = [f"{name} serves a damaged log" for name, life in lives if life.node.state is NodeState.SERVING]
            return unanswered + ended + serving
        failed = [
            f"{name} is {life.node.state}: {life.node.status().trouble}"
            for name, life in lives
            if life.node.state is not NodeState.SERVING
        ]
        unregistered = [f"{name} is not registered" for name, life in lives if not life.node.is_registered]
        suspended = [f"{name} still suspends keys" for name, life in lives if life.machine.suspended]
        leaders = [name for name, life in lives if life.node.holds_leadership]
        leaderless = [] if len(leaders) == 1 else [f"leaders with a lease: {leaders or 'none'}"]
        epoch = max((life.machine.state.epoch for _, life in lives), default=0)
        behind = [f"{name} has not read epoch {epoch}" for name, life in lives if life.machine.state.epoch < epoch]
        return ended + failed + unregistered + suspended + leaderless + behind + unanswered

    def _is_log_damaged(self) -> bool:
        """A leader that has not noticed that Kafka lost records may write one that follows them."""
        partition = self.kafka.partition
        return bool(partition.losses and read_log(partition.log.entries(), RecordCodec()).damage)

    def _check(self, report: SimulationReport) -> Iterator[str]:
        partition = self.kafka.partition
        eras = eras_of(partition.losses, partition.log)
        last = eras[-1].canonical
        report.records = len(last.states)
        report.commands = len(last.commands)
        report.epochs = max((it.state.epoch for it in last.states.values()), default=0)
        report.lost_records = sum(loss.log.end - loss.end for loss in partition.losses)
        if last.damage and not partition.losses:
            yield f"the log is damaged: {last.damage}"
            return
        yield from last.diverged
        yield from replicas.check(self.observer.samples, [era.canonical for era in eras])
        yield from replicas.check(self._served_last, [last])
        yield from processes.check(self.observer.unstopped)
        yield from acks.check(self.observer.unacknowledged)
        for era in eras:
            yield from self._check_era(era)

    def _check_era(self, era: Era) -> Iterator[str]:
        history, canonical, appended_s = era.history(self.history), era.canonical, era.appended_s
        clocks = {NodeId(node.name): node.clock for node in self.nodes}

        def latest_ms(offset: Offset) -> int:
            return clocks[canonical.writes[offset].author].latest_wall_ms(appended_s[offset])

        executions = Executions(canonical, latest_ms)
        yield from writes.check(history.writes(), canonical)
        yield from answers.check(history, canonical, appended_s, self.observer.samples, era.from_s)
        yield from leases.check(era.overlaps(self.observer.overlaps))
        yield from levels.check(history, executions, canonical, appended_s)
        yield from sessions.check(history, executions)
        yield from once.check(history, canonical)
        yield from watches.check(history, executions)
        yield from expiry.check(history, executions, canonical, latest_ms)
        yield from order.check(history, executions, appended_s)
        yield from tables.check(history, executions, canonical)
        yield from claims.check(era.entries, appended_s, RecordCodec())

    def _fingerprint(self) -> str:
        for offset, payload in self.kafka.partition.log.entries():
            self._hash.update(b"%d %b" % (offset, payload))
        return self._hash.hexdigest()
