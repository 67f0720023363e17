"""Counters of a broker on this machine, by Kafka's own JmxTool, which is downloaded once."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from replicator.errors import BrokerUnavailable
from replicator.local.kafka.jars import KAFKA_VERSION, fetch_with_jgo, kafka_home
from replicator.local.kafka.java import find_java

TIMEOUT_S = 60.0
_NO_COUNTER = "No matched attributes"
_TOOLS = f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}!"


class BrokerCounters:
    """Of a `LocalBroker` with a `jmx_port`."""

    def __init__(self, jmx_port: int) -> None:
        """Raises what `fetch_with_jgo` and `kafka_home` do."""
        tools = [str(jar) for jar in fetch_with_jgo(_TOOLS) if jar.name.startswith("kafka-tools-")]
        classpath = ":".join([*tools, str(Path(kafka_home()) / "libs" / "*")])
        self._command = [
            *(str(find_java()), "-cp", classpath, "org.apache.kafka.tools.JmxTool", "--one-time"),
            *("--jmx-url", f"service:jmx:rmi:///jndi/rmi://127.0.0.1:{jmx_port}/jmxrmi"),
        ]

    def bytes_out(self, topic: str) -> int:
        """Bytes of a topic that consumers have fetched. Raises `BrokerUnavailable`."""
        return self._count(f"kafka.server:type=BrokerTopicMetrics,name=BytesOutPerSec,topic={topic}")

    def bytes_in(self, topic: str) -> int:
        """Bytes that were appended to a topic. Raises `BrokerUnavailable`."""
        return self._count(f"kafka.server:type=BrokerTopicMetrics,name=BytesInPerSec,topic={topic}")

    def _count(self, name: str) -> int:
        """0 if there is no such counter: the broker creates it at the first request. Raises `BrokerUnavailable`."""
        command = [*self._command, "--object-name", name, "--attributes", "Count"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        output = done.stdout + done.stderr
        if _NO_COUNTER in output:
            return 0
        values = re.findall(r'^\d+,"?(\d+)"?$', done.stdout, re.MULTILINE)  # time and count
        if done.returncode != 0 or not values:
            raise BrokerUnavailable(f"the counters of Kafka cannot be read:\n{output}".rstrip())
        return int(values[-1])
