"""Rates of the parts by themselves: Kafka and LMDB."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path

import lmdb
import uvloop

from replicator.config import load_kafka
from replicator.log.kafka.admin import delete_topics, ensure_topics
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.security import KafkaSecurity, security_of
from replicator.position import Offset
from replicator.store import environment

APPENDS = 2_000
BATCHES = 100
BATCH_RECORDS = 2_000
RECORD = bytes(100)
ENTRIES = 200_000


def kafka_rates(bootstrap: str) -> dict[str, float]:
    """Single appends, full batches, requests for the end offset, and reading. Raises `BrokerUnavailable`."""
    name = f"raw-{os.getpid()}"
    security = security_of(load_kafka(None, os.environ, bootstrap))
    ensure_topics(bootstrap, name, security=security)
    try:
        return uvloop.run(_kafka(bootstrap, name, security))
    finally:
        delete_topics(bootstrap, name, security=security)


async def _kafka(bootstrap: str, name: str, security: KafkaSecurity) -> dict[str, float]:
    log = await KafkaLog.open(bootstrap, name, security=security)
    for _ in range(200):  # warm-up: Java compiles while it runs
        await log.append([RECORD])
    single = [await _seconds(log, 1) for _ in range(APPENDS)]
    began = time.perf_counter()
    for _ in range(BATCHES):
        await log.append([RECORD] * BATCH_RECORDS)
    batched_s = time.perf_counter() - began
    ends = []
    for _ in range(500):
        began = time.perf_counter()
        await log.end()
        ends.append(time.perf_counter() - began)
    reader = log.reader(Offset(0))
    end, read = await log.end(), 0
    began = time.perf_counter()
    while read < end:
        read += len(await reader.next())
    read_s = time.perf_counter() - began
    await asyncio.gather(reader.close(), log.close())
    return {
        "kafka_appends_per_s": len(single) / sum(single),
        "kafka_append_p50_ms": statistics.median(single) * 1000,
        "kafka_batched_records_per_s": BATCHES * BATCH_RECORDS / batched_s,
        "kafka_end_offset_p50_ms": statistics.median(ends) * 1000,
        "kafka_read_records_per_s": read / read_s,
    }


async def _seconds(log: KafkaLog, records: int) -> float:
    began = time.perf_counter()
    await log.append([RECORD] * records)
    return time.perf_counter() - began


def iteration_rate(store: Path) -> float:
    """Entries a second of a loop over those of a store that is not open."""
    with environment.read_only(store) as env:
        database = env.open_db(b"entries", create=False)
        with env.begin(db=database) as txn:
            began, entries = time.perf_counter(), 0
            for _ in txn.cursor():
                entries += 1
            return entries / (time.perf_counter() - began)


def lmdb_rates(folder: Path) -> dict[str, float]:
    """Puts of small entries in transactions of 2,000, and gets in one transaction."""
    env = lmdb.open(str(folder), map_size=1 << 30, sync=False, metasync=False)
    keys = [b"key:%012d" % number for number in range(ENTRIES)]
    began = time.perf_counter()
    for start in range(0, ENTRIES, BATCH_RECORDS):
        with env.begin(write=True) as txn:
            for key in keys[start : start + BATCH_RECORDS]:
                txn.put(key, RECORD)
    put_s = time.perf_counter() - began
    with env.begin() as txn:
        began = time.perf_counter()
        for key in keys:
            txn.get(key)
        get_s = time.perf_counter() - began
    env.close()
    return {"lmdb_puts_per_s": ENTRIES / put_s, "lmdb_gets_per_s": ENTRIES / get_s}
