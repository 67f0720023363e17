"""A real Apache Kafka on this machine: one process, one folder; Docker, Maven and Java need not be installed.

java.py      which Java runs it
jars.py      where Kafka's jars come from, and their cache
settings.py  the contents of `server.properties`, and why
paths.py     folders of the user
broker.py    start, stop, kill, status
"""

from replicator.local.kafka.broker import BrokerState, BrokerStatus, LocalBroker

__all__ = ["BrokerState", "BrokerStatus", "LocalBroker"]
