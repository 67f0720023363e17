"""Keys and values of changes as text for people: whole, or shortened to the width of a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from rich.text import Text

from replicator.store.rows import Image

ARROW = " → "


def time_text(written: datetime, *, is_short: bool) -> str:
    """`is_short`: a time of today has no date."""
    today = is_short and written.date() == datetime.now().date()
    return (written.time() if today else written).isoformat(timespec="milliseconds").replace("T", " ")


def images_text(images: Iterable[Image | None], room: int | None) -> Text:
    """old → new, or the one that there is; whole, or shortened to `room` characters."""
    parts = [Text(_image_text(it, room)) for it in images if it is not None]
    if room is not None:
        _shorten(parts, room)
    return Text(ARROW).join(parts)


def _shorten(parts: Sequence[Text], room: int) -> None:
    """So that the end of an old value does not displace the new one."""
    if len(parts) == 2:
        old, new = parts
        room -= len(ARROW)
        old.truncate(max(room // 2, room - new.cell_len), overflow="ellipsis")


def _image_text(image: Image, room: int | None) -> str:
    if image.columns is not None:
        return ", ".join(f"{name_text(name.encode())}={_value_text(it, room)}" for name, it in image.columns.items())
    value = f"({image.type})" if image.value is None else f'"{escaped_text(image.value, room)}"'
    if image.expires_at_ms is None:
        return value
    expires = datetime.fromtimestamp(image.expires_at_ms / 1000).isoformat(" ", "seconds")
    return f"{value} expires {expires}"


def _value_text(value: float | str | bytes | None, room: int | None) -> str:
    """As a literal of SQL; text as that of Redis."""
    match value:
        case str():
            return f'"{escaped_text(value.encode(), room)}"'
        case bytes():
            return f"x'{value[:room].hex()}'"
        case _:
            return "NULL" if value is None else str(value)


def name_text(name: bytes) -> str:
    """Without quotes, unless it has spaces or is empty."""
    text = escaped_text(name)
    return text if text and " " not in text else f'"{text}"'


def json_text(data: bytes) -> str:
    """Its quotes are not escaped again."""
    text = data.decode()
    return text if text.isprintable() else escaped_text(data)


def escaped_text(data: bytes, room: int | None = None) -> str:
    """As printable text; other bytes as in Python. At least `room` characters of it."""
    text = data.replace(b"\\", b"\\\\").decode(errors="backslashreplace")[:room].replace('"', '\\"')
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else it.encode("unicode_escape").decode() for it in text)
