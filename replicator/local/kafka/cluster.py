"""A Kafka of several brokers on this machine, each a process of its own, whose links can be cut one by one.

    client → broker    a link for each broker and each of two groups of clients
    broker → broker    two links for each pair: to the broker, and to its controller

Every broker is a controller, too. All of them know each other by the same names, and each one resolves these names to
the addresses of its own links (127.1.FROM.TO). Links of one address for all would not do: a controller that becomes the
active one tells the others where it is.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.local.kafka.broker import LocalBroker, new_cluster_id
from replicator.local.kafka.proxy import HOST, Link, Proxies
from replicator.local.kafka.settings import BrokerLayout, Listener
from replicator.local.ports import random_free_ports
from replicator.local.progress import ProgressReporter
from replicator.log.kafka.probe import BrokerProbe

BROKERS = 3
HEAP = "256m"
JOIN_S = 60.0
PROBE_S = 1.0
POLL_S = 0.05
BETWEEN_BROKERS = "BROKER"
PORTS_PER_BROKER = 6  # controller, between brokers, and for each group of clients one of the broker and one of a proxy


class ClientGroup(StrEnum):
    """Clients that reach the brokers through the same links; the name of their listener."""

    FIRST = "FIRST"
    SECOND = "SECOND"


class KafkaCluster:
    """Runs between `start` and `close`. The brokers exit with `close`; their folders remain."""

    def __init__(self, dir: Path, brokers: int = BROKERS) -> None:
        self.nodes = range(1, brokers + 1)
        self._proxies = Proxies()
        self._between: dict[tuple[int, int], list[Link]] = {}  # from a broker to another, and to its own controller
        self._of_clients: dict[tuple[ClientGroup, int], Link] = {}
        self._addresses: dict[ClientGroup, list[Address]] = {group: [] for group in ClientGroup}
        self._ports = iter(random_free_ports(PORTS_PER_BROKER * brokers))
        controllers = {node: Address(_name(node), next(self._ports)) for node in self.nodes}
        cluster_id = new_cluster_id()
        self._brokers = {
            node: LocalBroker(dir / _name(node), heap=HEAP, layout=self._layout(node, controllers, cluster_id))
            for node in self.nodes
        }

    def _layout(self, node: int, controllers: dict[int, Address], cluster_id: str) -> BrokerLayout:
        between, controller = next(self._ports), controllers[node].port
        for other in self.nodes:
            self._between[other, node] = [
                self._proxies.add(port, Address(_ip(other, node), port)) for port in (between, controller)
            ]
        listeners = [Listener(BETWEEN_BROKERS, between, Address(_name(node), between))]
        for group in ClientGroup:
            port, reached_at = next(self._ports), Address(HOST, next(self._ports))
            self._of_clients[group, node] = self._proxies.add(port, reached_at)
            self._addresses[group].append(reached_at)
            listeners.append(Listener(group, port, reached_at))
        hosts = {_name(to): _ip(node, to) for to in self.nodes}
        return BrokerLayout(node, tuple(listeners), controller, controllers, cluster_id, hosts)

    def bootstrap(self, group: ClientGroup = ClientGroup.FIRST) -> str:
        return ",".join(map(str, self._addresses[group]))

    def start(self, *nodes: int) -> None:
        """Start these brokers, or all, and wait until all that run are members. Raises `BrokerUnavailable`."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(lambda node: self._brokers[node].start(), nodes or self.nodes))
        if dead := [node for node in nodes or self.nodes if self._brokers[node].process is None]:
            raise BrokerUnavailable(f"these brokers exited while they were starting: {dead}. See their logs")
        probe = BrokerProbe(self.bootstrap())
        running = sum(broker.process is not None for broker in self._brokers.values())
        deadline_s = time.monotonic() + JOIN_S
        while (joined := probe.brokers(PROBE_S)) != running:
            if time.monotonic() > deadline_s:
                raise BrokerUnavailable(f"{joined} of {running} brokers have joined the cluster: see their logs")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Kill all brokers: a clean shutdown of the last ones would wait for the others."""
        for node in self.nodes:
            self.kill(node)
            self._brokers[node].stop()
        self._proxies.close()

    # What can happen to a broker

    def kill(self, node: int) -> None:
        self._brokers[node].kill()

    def stop(self, node: int) -> None:
        """A clean shutdown: leadership of its partitions is transferred first."""
        self._brokers[node].stop()

    @contextmanager
    def stopped(self, node: int) -> Iterator[None]:
        """Its process is stopped with SIGSTOP."""
        process = self._brokers[node].process
        if process is None:
            raise BrokerUnavailable(f"broker {node} does not run")
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    @contextmanager
    def cut_off(self, node: int) -> Iterator[None]:
        """From the other brokers and all controllers, but not from clients."""
        with _cut([link for pair, links in self._between.items() if node in pair for link in links]):
            yield

    @contextmanager
    def cut_off_from_clients(self, node: int, group: ClientGroup) -> Iterator[None]:
        with _cut([self._of_clients[group, node]]):
            yield


def _name(node: int) -> str:
    return f"broker{node}"


def _ip(origin: int, to: int) -> str:
    """Of the links from a broker to another; within 127.0.0.0/8, as Linux needs no set-up for these addresses."""
    return f"127.1.{origin}.{to}"


@contextmanager
def _cut(links: list[Link]) -> Iterator[None]:
    for link in links:
        link.cut()
    try:
        yield
    finally:
        for link in links:
            link.heal()


@contextmanager
def temporary_brokers(progress: ProgressReporter) -> Iterator[KafkaCluster]:
    """Raises `ConfigError`, `BrokerUnavailable`."""
    with tempfile.TemporaryDirectory(prefix="replicator-brokers-") as folder:
        brokers = KafkaCluster(Path(folder))
        try:
            progress.step(f"starting {BROKERS} brokers")
            brokers.start()
            yield brokers
        finally:
            brokers.close()
