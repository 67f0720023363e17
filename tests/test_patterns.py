"""Glob patterns against a plain reference, and with patterns that make a naive matcher slow."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import BadRequest
from replicator.limits import MAX_KEY_BYTES, MAX_PATTERN_BYTES
from replicator.patterns import glob

PATTERNS = st.lists(st.sampled_from([b"*", b"?", b"a", b"b", b"[ab]", b"[^a]", b"[a-b]", b"\\*", b"\n", b"[]", b"[^]"]))
TEXTS = st.lists(st.sampled_from([b"a", b"b", b"c", b"*", b"\n"])).map(b"".join)
ANY = b"abc*\n"
CLASSES = {b"?": ANY, b"[ab]": b"ab", b"[^a]": b"bc*\n", b"[a-b]": b"ab", b"\\*": b"*", b"[]": b"", b"[^]": ANY}
SLOW = [b"*a" * 200 + b"b", b"a*" * 200 + b"b", b"*" + b"a" * 400 + b"b*", b"*?" * 200 + b"b"]


def matches(pattern: list[bytes], text: bytes) -> bool:
    """The reference: try every length for each star."""
    if not pattern:
        return not text
    head, *rest = pattern
    if head == b"*":
        return any(matches(rest, text[at:]) for at in range(len(text) + 1))
    return bool(text) and text[:1] in CLASSES.get(head, head) and matches(rest, text[1:])


@given(PATTERNS, TEXTS)
def test_patterns_match_as_a_search_of_all_possibilities(pattern: list[bytes], text: bytes) -> None:
    stars = [it for it in pattern if it == b"*"][:4]  # the reference is slow
    pattern = [it for it in pattern if it != b"*" or (stars and stars.pop())]
    assert bool(glob(b"".join(pattern)).match(text)) == matches(pattern, text)


@pytest.mark.parametrize("pattern", SLOW)
def test_no_pattern_is_slow(pattern: bytes) -> None:
    begun_s = time.process_time()
    assert not glob(pattern).match(b"a" * MAX_KEY_BYTES)
    assert time.process_time() - begun_s < 0.1  # with backtracking it takes years


def test_a_long_pattern_is_refused() -> None:
    with pytest.raises(BadRequest, match="at most"):
        glob(b"?" * (MAX_PATTERN_BYTES + 1))
