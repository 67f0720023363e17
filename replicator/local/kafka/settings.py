"""The broker's configuration: `server.properties` and log4j. Text in, text out.

Paths are relative to the broker's folder, which is its working directory: the folder may be moved, and its name needs
no escaping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from replicator.address import Address
from replicator.limits import LOCAL_BROKER_MESSAGE_BYTES

DATA_FOLDER = "data"
LOG_FILE = "broker.log"
HOSTS_FILE = "hosts"

_HOST = "127.0.0.1"
_CONTROLLER = "CONTROLLER"


_SEVERAL_BROKERS = """
# After 3 s another broker leads the partitions of one that does not respond. The default is 9 s. A heartbeat that takes
# longer than its interval is lost: with a short one, a busy machine loses all of them.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=1000
"""


@dataclass(frozen=True)
class Listener:
    """Where a broker listens, and where it says that others reach it: there may be a proxy between."""

    name: str
    port: int
    advertised: Address


@dataclass(frozen=True)
class BrokerLayout:
    """The place of one broker, which is a controller too, in its cluster."""

    node: int
    listeners: tuple[Listener, ...]  # the first one is used between brokers
    controller_port: int
    controllers: Mapping[int, Address]  # by node
    cluster_id: str
    hosts: Mapping[str, str] = field(default_factory=dict)  # IP addresses of the names that only this broker resolves

    @property
    def port(self) -> int:
        return self.listeners[0].port


def single_broker(*, port: int, controller_port: int, cluster_id: str) -> BrokerLayout:
    listener = Listener("BROKER", port, Address(_HOST, port))
    return BrokerLayout(1, (listener,), controller_port, {1: Address(_HOST, controller_port)}, cluster_id)


def server_properties(layout: BrokerLayout, data_folder: str = DATA_FOLDER) -> str:
    names = [listener.name for listener in layout.listeners]
    voters = ",".join(f"{node}@{address}" for node, address in layout.controllers.items())
    listeners = [f"{it.name}://{_HOST}:{it.port}" for it in layout.listeners]
    advertised = [f"{it.name}://{it.advertised}" for it in layout.listeners]
    copies = len(layout.controllers)
    in_sync = 1 if copies < 3 else 2
    if copies > 1:  # by default, a new active controller gives the others the port of its listener
        advertised.append(f"{_CONTROLLER}://{layout.controllers[layout.node]}")
    return f"""\
# Written by `replicator broker start` at each start.
process.roles=broker,controller
node.id={layout.node}
controller.quorum.voters={voters}
controller.listener.names={_CONTROLLER}
listeners={",".join([*listeners, f"{_CONTROLLER}://{_HOST}:{layout.controller_port}"])}
advertised.listeners={",".join(advertised)}
inter.broker.listener.name={names[0]}
listener.security.protocol.map={",".join(f"{name}:PLAINTEXT" for name in [*names, _CONTROLLER])}
log.dirs={data_folder}

# As many copies as there are brokers.
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
{_SEVERAL_BROKERS if copies > 1 else ""}
# The defaults (50 partitions each) cost a second at the first consumer group and the first transaction.
offsets.topic.num.partitions=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.num.partitions=1

# A mistyped topic name must not create a topic.
auto.create.topics.enable=false
num.partitions=1
# Consumer groups have one member: they need not wait 3 s for more.
group.initial.rebalance.delay.ms=0
# A group commit is one record batch.
message.max.bytes={LOCAL_BROKER_MESSAGE_BYTES}
# The default takes 128 MiB of the heap for compacted topics, which hold very little here.
log.cleaner.dedupe.buffer.size={16 << 20}
"""


def hosts_file(layout: BrokerLayout) -> str:
    return "".join(f"{ip} {name}\n" for name, ip in layout.hosts.items())


def port_of(properties: str) -> int | None:
    """The port at which the broker listens, from the text of an earlier `server_properties`."""
    found = re.search(r"^listeners=BROKER://127\.0\.0\.1:(\d+),", properties, re.MULTILINE)
    return int(found.group(1)) if found else None


def cluster_id_of(meta_properties: str) -> str | None:
    """Kafka's own id of the data folder, from the text of its `meta.properties`."""
    found = re.search(r"^cluster\.id=(\S+)$", meta_properties, re.MULTILINE)
    return found.group(1) if found else None


LOG4J2_XML = f"""\
<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Appenders>
    <RollingFile name="file" fileName="{LOG_FILE}" filePattern="{LOG_FILE}.%i">
      <PatternLayout pattern="%d %p %c: %m%n"/>
      <SizeBasedTriggeringPolicy size="16 MB"/>
      <DefaultRolloverStrategy max="2"/>
    </RollingFile>
  </Appenders>
  <Loggers>
    <Root level="info"><AppenderRef ref="file"/></Root>
  </Loggers>
</Configuration>
"""


def _jmx_options(port: int) -> list[str]:
    """Counters, for programs on this machine only."""
    settings = {"host": "127.0.0.1", "port": port, "rmi.port": port, "authenticate": "false", "ssl": "false"}
    options = [f"-Dcom.sun.management.jmxremote.{name}={value}" for name, value in settings.items()]
    return [*options, "-Djava.rmi.server.hostname=127.0.0.1"]


def java_options(*, heap: str, classpath: str, own_hosts: bool = False, jmx_port: int | None = None) -> list[str]:
    """`own_hosts`: names are those of `hosts_file`, and no others."""
    return [
        *([] if jmx_port is None else _jmx_options(jmx_port)),
        *([f"-Djdk.net.hosts.file={HOSTS_FILE}"] if own_hosts else []),
        f"-Xmx{heap}",
        "-Xms64m",
        "-XX:+UseG1GC",  # by default small machines use the serial collector, whose pauses show in the latencies
        "-XX:MaxGCPauseMillis=20",
        "-XX:+ExitOnOutOfMemoryError",  # a broker that has exited is noticed, a broken one is not
        "-Xshare:auto",
        "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=log4j2.xml",
        "-cp",
        classpath,
    ]
