"""The table that `replicator bench sql` measures, and its statements."""

from __future__ import annotations

from collections.abc import Iterator

COLUMNS = ("id", "a", "b", "c", "d")
CREATE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, c TEXT, d REAL)"
SELECT = "SELECT a, b FROM t WHERE id = ?"
UPDATE = "UPDATE t SET a = ? WHERE id = ?"
INSERT = "INSERT INTO t (a, b) VALUES (?, ?)"

_FILLED_AT_ONCE = 500


def fill_statements(rows: int) -> Iterator[str]:
    """Rows with the ids from 0 on."""
    for first in range(0, rows, _FILLED_AT_ONCE):
        last = min(first + _FILLED_AT_ONCE, rows) - 1
        yield (
            f"WITH RECURSIVE n(x) AS (VALUES ({first}) UNION ALL SELECT x + 1 FROM n WHERE x < {last}) "
            "INSERT INTO t SELECT x, x, 2 * x, 'text ' || x, x / 2.0 FROM n"
        )
