"""The commands of the demonstration: keys and SQL statements, which a seed determines."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgpack

CommandLine = list[bytes]

ROWS = 1_000  # ids of both tables, and keys of each type
PLAIN_SHARE = 0.2  # of the commands come first and make no nondeterministic call

_CREATE = (
    "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER, name TEXT)",
    "CREATE TABLE events (id INTEGER PRIMARY KEY, value INTEGER, token BLOB, at TEXT)",
)
_PLAIN = (
    "INSERT OR REPLACE INTO accounts VALUES (:row, :value, 'name ' || :value)",
    "UPDATE accounts SET balance = balance + :value WHERE id = :row",
    "INSERT OR IGNORE INTO events (id, value) VALUES (:row, :value)",
    "SET|string:{row}|{value}",
    "INCRBY|counter:{row}|{value}",
    "HSET|hash:{row}|field:{value}|{value}",
)
_CALLING = (
    "INSERT OR REPLACE INTO events VALUES (:row, random(), randomblob(8), now())",
    "UPDATE events SET value = random() % 1000 WHERE id = :row",
    "UPDATE events SET token = randomblob(4), at = now() WHERE id BETWEEN :row AND :row + 9",
    "UPDATE accounts SET balance = balance + abs(random() % 100) WHERE id = :row",
    "DELETE FROM events WHERE value % 7 = 0 AND id BETWEEN :row AND :row + 9",
    "SET|expiring:{row}|{value}|EX|100000",
)


def commands(count: int, seed: int) -> Iterator[CommandLine]:
    """So many, besides those that create the tables."""
    draw = random.Random(seed)
    for statement in _CREATE:
        yield [b"REPL.SQL", statement.encode()]
    for number in range(count):
        templates = _PLAIN if number < PLAIN_SHARE * count else _PLAIN + _CALLING
        template, values = draw.choice(templates), {"row": draw.randrange(ROWS), "value": draw.randrange(100)}
        if "{row}" in template:
            yield template.format(**values).encode().split(b"|")
        else:
            yield [b"REPL.SQL", template.encode(), b"PARAMS", msgpack.packb(values)]
