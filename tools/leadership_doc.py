"""Generates the parts of docs/leadership.md between its markers from the tables of `replicator/protocol`.

python -m tools.leadership_doc
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from replicator.protocol.acceptance import DATA_RULES
from replicator.protocol.claims import CLAIM_RULES
from replicator.protocol.log_state import Void
from replicator.protocol.roles import SETTLEMENTS, TRANSITIONS, Role

PAGE = Path(__file__).parents[1] / "docs" / "leadership.md"
_PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def roles() -> str:
    """The rows of `TRANSITIONS`. Events with the same outcome share a row."""
    order = list(Role)
    edges = sorted((order.index(was), order.index(to), event) for (was, event), to in TRANSITIONS.items())
    rows = [
        (str(order[was]), "; or ".join(event for _, _, event in same), str(order[to]))
        for (was, to), same in groupby(edges, key=lambda edge: edge[:2])
    ]
    return _table(("role", "event", "role afterwards"), rows)


def data() -> str:
    rows = [
        (rule.when, "void" if isinstance(rule.verdict, Void) else f"log damage: {rule.verdict}") for rule in DATA_RULES
    ]
    return _table(("first condition that holds", "the data record is"), [*rows, ("none of these", "accepted")])


def claims() -> str:
    rows = [(reason.value, rule.__doc__ or "") for reason, rule in CLAIM_RULES.items()]
    return _table(("reason", "a claim of the next epoch is accepted"), rows)


def settlements() -> str:
    texts = {
        "void_sent": "what was sent in an earlier epoch and not read before the claim is void (FENCED), "
        "and so are the writes after it",
        "fail_unacknowledged": "what is in the log and waits for acks ends as UNKNOWN",
        "refuse_queued": "queued writes are refused (READONLY)",
    }
    rows = [
        (str(event), "; ".join(text for name, text in texts.items() if getattr(settlement, name)))
        for event, settlement in SETTLEMENTS.items()
    ]
    return _table(("event", "writes in flight"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


PARTS = {"roles": roles, "settlements": settlements, "data": data, "claims": claims}


def regenerated(page: str) -> str:
    return _PART.sub(lambda part: f"{part[1]}{PARTS[part[2]]()}\n{part[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
