"""A leader that cannot learn the outcome of an append claims again with longer and longer pauses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from replicator.log.port import Entry
from replicator.position import Author
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Claim, Reason

WINDOW_S = 2.0
MOST = 12  # claims of one process in that time: it may resolve one append after the other


def check(entries: Iterable[Entry], appended_s: Sequence[float], codec: RecordCodec) -> Iterator[str]:
    times_s: dict[Author, list[float]] = defaultdict(list)
    for offset, payload in entries:
        try:
            record = codec.decode(payload, b"")
        except NotARecord:
            continue
        if isinstance(record.body, Claim) and record.body.reason is Reason.RESOLVE:
            times_s[record.header.author].append(appended_s[offset])
    for author, claims_s in times_s.items():
        for first, last in zip(claims_s, claims_s[MOST:], strict=False):
            if last - first < WINDOW_S:
                yield f"{author} has appended {MOST + 1} claims from {first:.6f} s to {last:.6f} s"
                break
