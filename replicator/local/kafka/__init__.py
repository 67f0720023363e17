"""A real Apache Kafka on this machine, without Docker, Maven or an installed Java: a process and a folder a broker.

java.py      which Java runs it
jars.py      where Kafka's jars come from, and their cache
settings.py  the contents of `server.properties`, and why
paths.py     folders of the user
broker.py    start, stop, kill, status
jmx.py       counters of a broker
cluster.py   several brokers, and cuts between them
proxy.py     the links that can be cut
"""

from replicator.local.kafka.broker import BrokerState, BrokerStatus, LocalBroker

__all__ = ["BrokerState", "BrokerStatus", "LocalBroker"]
