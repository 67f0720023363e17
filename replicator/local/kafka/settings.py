"""The broker's configuration: `server.properties` and log4j. Text in, text out.

Paths are relative to the broker's folder, which is its working directory: the folder may be moved, and its name needs
no escaping.
"""

from __future__ import annotations

import re

from replicator.limits import LOCAL_BROKER_MESSAGE_BYTES

DATA_FOLDER = "data"
LOG_FILE = "broker.log"


def server_properties(*, port: int, controller_port: int, data_folder: str = DATA_FOLDER) -> str:
    return f"""\
# Written by `replicator broker start` at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=BROKER://127.0.0.1:{port}
inter.broker.listener.name=BROKER
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data_folder}

# There is one broker, so there is one copy.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1

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


def port_of(properties: str) -> int | None:
    """The port that clients use, from the text of an earlier `server_properties`."""
    found = re.search(r"^advertised\.listeners=BROKER://127\.0\.0\.1:(\d+)$", properties, re.MULTILINE)
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


def java_options(*, heap: str, classpath: str) -> list[str]:
    return [
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
