"""Measurements of replicator, next to its parts and to the systems it could replace.

benchmark.py        `replicator bench`: throughput, memory and replay, with floors as ratios to the raw rates
raw_rates.py        Kafka and LMDB by themselves
redis_benchmark.py  load by redis-benchmark
memory.py           memory of the leader under writes
replay.py           how fast a new follower reads the log
modes.py            `replicator bench modes`: replication modes and read levels
mode_rows.py        its rows, and what is expected of them
subjects.py         each system that a row measures, set up and torn down
closed_loop.py      the load of its rows
peers.py            Redis, with and without a replica
postgres.py         PostgreSQL with a standby
sql.py              `replicator bench sql`: SQL, and the replication of statements
"""
