"""The state digest: the sum of the digests of all live entries mod 2^128, so it can be updated entry by entry."""

from __future__ import annotations

from collections.abc import Iterable

import xxhash

DIGEST_MASK = (1 << 128) - 1


def entry_digest(key: bytes, value: bytes) -> int:
    """The share of one live entry in the state digest: xxh3-128 of the length of the key, the key and the value."""
    return int(xxhash.xxh3_128_intdigest(b"%c%c%b%b" % (len(key) >> 8, len(key) & 255, key, value)))


def recount(entries: Iterable[tuple[bytes, bytes]]) -> tuple[int, int]:
    """The digest and the number of the entries, computed from all of them."""
    digest = count = 0
    for key, value in entries:
        digest += entry_digest(key, value)
        count += 1
    return digest & DIGEST_MASK, count
