"""The chain: a checksum over the bodies of all accepted records, which each data record carries."""

from __future__ import annotations

import xxhash

GENESIS = bytes(8)
"""The chain before the first record."""


def link(chain: bytes, encoded_body: bytes) -> bytes:
    """The chain after a record (8 bytes): xxh3-64 of the chain before it and its body."""
    digest: bytes = xxhash.xxh3_64_digest(chain + encoded_body)
    return digest
