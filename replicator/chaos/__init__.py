"""Failovers of a real cluster under load.

measure.py           `replicator chaos failover`: runs of each kind, and the figures
failover.py          one run: kill, pause, stall or handover, and recovery
failover_figures.py  how long writes paused, and what was lost
client_load.py       clients that write all the time
write_ledger.py      the outcome of each write
stale_reads.py       clients that read at a node that was the leader
redis_connection.py  a connection that sends each request once
"""
