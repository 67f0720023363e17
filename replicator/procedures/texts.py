"""What procedures get instead of `str`, `repr` and others: texts without addresses of the memory.

The text of a function, or of a list that has one, contains its address, which differs at each node. `loading` puts
these functions in place of what makes texts of values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, time
from decimal import Decimal
from functools import partial
from string import Formatter
from types import NoneType
from typing import Any

_ADDRESS = re.compile(r" (?:at|@) 0x[0-9a-f]+")
_KEY = re.compile(r"\[[^\]]*\]")  # in a field of a format
_PLAIN = frozenset({str, bytes, int, float, bool, NoneType, Decimal})
GUARDED_ATTRIBUTES = frozenset({"format", "args", "now"})
"""Attributes that procedures get by `attribute`."""


def plain(text: str) -> str:
    """Raises `ValueError`."""
    if "0x" in text and _ADDRESS.search(text):
        raise ValueError(
            f"{without_addresses(text[:200])!r} has an address of the memory, which differs at each node: "
            "use a text of your own"
        )
    return text


def without_addresses(text: str) -> str:
    return _ADDRESS.sub("", text)


class _TextType(type):
    def __call__(cls, *args: Any, **options: Any) -> str:
        text = str(*args, **options)
        return text if args and text is args[0] else plain(text)

    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(value, str)

    def __subclasscheck__(cls, other: type) -> bool:
        return issubclass(other, str)


class Text(str, metaclass=_TextType):
    """The `str` of procedures. It makes instances of the real one only."""

    __slots__ = ()


Text.__name__ = Text.__qualname__ = "str"


def shown(value: object) -> str:
    """The `repr` of procedures. Raises `ValueError`."""
    return plain(repr(value))


def shown_in_ascii(value: object) -> str:
    """Raises `ValueError`."""
    return plain(ascii(value))


_CONVERSIONS: dict[str, Callable[[object], str]] = {"s": Text, "r": shown, "a": shown_in_ascii}


def converted(value: object, conversion: str) -> str:
    """For `f"{value!r}"`. Raises `ValueError`."""
    return _CONVERSIONS[conversion](value)


def operand(value: Any) -> Any:
    """That on the right of `%`, which may become a part of a text. Raises `ValueError`."""
    if type(value) not in _PLAIN:
        shown(value)
    return value


def remainder(left: Any, right: Any) -> Any:
    """`operator.mod`. Raises `ValueError`."""
    return left % operand(right)


def attribute(value: Any, name: str) -> Any:
    """One of `GUARDED_ATTRIBUTES`. Raises `ValueError`, `AttributeError`."""
    if name == "format" and isinstance(value, str):
        return partial(_formatted, value)
    if name == "format" and isinstance(value, type) and issubclass(value, str):
        return _formatted
    if name == "now" and isinstance(value, type | date):
        raise AttributeError(f"{name} is not allowed: use tx.now()")
    found = getattr(value, name)
    if name == "args":
        shown(found)
    return found


def _formatted(template: str, *args: Any, **options: Any) -> str:
    _check_template(template)
    for value in [*args, *options.values()]:
        operand(value)
    return plain(_FORMATTER.vformat(template, args, options))


class _SafeFormatter(Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        return format(checked_for_format(value) if format_spec else value, format_spec)


_FORMATTER = _SafeFormatter()


def checked_for_format(value: Any) -> Any:
    """What is before the colon in `f"{value:format}"`. Raises `ValueError` for dates and times.

    Their formats are those of the node's C library, in its time zone.
    """
    if isinstance(value, date | time):
        raise ValueError("a format of a date or time is not allowed, as it depends on the node: use isoformat()")
    return value


def _check_template(template: str) -> None:
    for _, field, spec, _ in Formatter().parse(template):
        if field is not None and "." in _KEY.sub("", field):
            raise ValueError(f"a format may not name attributes of values, as {{{field}}} does: give it the attribute")
        if spec:
            _check_template(spec)
