"""A real Apache Kafka on this machine: one process, one folder, no Docker, Maven or Java needed beforehand.

java.py      which Java runs it
jars.py      where Kafka's program comes from, and the cache it is kept in
settings.py  what `server.properties` says, and why
process.py   one process of this machine, told apart from a later one with the same pid
health.py    does it answer?
local.py     start, stop, kill, status
"""

from replicator.local.kafka.broker import BrokerState, BrokerStatus, LocalBroker

__all__ = ["BrokerState", "BrokerStatus", "LocalBroker"]
