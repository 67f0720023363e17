"""Bytes as text that a person can read: UTF-8 where they are that, base64 otherwise, with a flag."""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache

Text = tuple[str, bool]
"""The text, and whether it is base64."""


def to_text(data: bytes) -> Text:
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(data).decode(), True


cached_text = lru_cache(maxsize=4096)(to_text)
"""`to_text` of short values that repeat, such as names of fields."""


def from_text(text: str, is_base64: bool) -> bytes:
    """Raises `ValueError`."""
    try:
        return base64.b64decode(text, validate=True) if is_base64 else text.encode()
    except binascii.Error as error:
        raise ValueError(f"invalid base64: {error}") from error
