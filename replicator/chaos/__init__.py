"""Failovers of a real cluster, and of its Kafka, under load.

measure.py           `replicator chaos failover` and `chaos brokers`: runs of each kind, and the figures
failover.py          one run: kill, pause, stall, handover or stop, and recovery
broker_failover.py   one run: a broker is killed, stopped, cut off or restarted, and recovery
failover_figures.py  how long writes paused, and what was lost
client_load.py       clients that write all the time
write_ledger.py      the outcome of each write
stale_reads.py       clients that read at a node that was the leader
linear_reads.py      clients that read at every node, linearizably
redis_connection.py  a connection that sends each request once
"""
