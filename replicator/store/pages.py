"""Whether the file of a store has all pages that it uses. To read one behind its end would end the process (SIGBUS).

LMDB does not write a page that was freed by the transaction that had allocated it. So the file of an intact store may
end before the last page that the newest meta page names, but every page that it lacks is in the list of free pages.
The formats are those of LMDB 0.9 on machines of 64 bits.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HEADER = struct.Struct("=QHHHH")  # number, pad, flags, lower, upper
_META = struct.Struct("=IIQQ")  # magic, version, address, map size
_DATABASE = struct.Struct("=IHHQQQQQ")  # pad (page size), flags, depth, branches, leaves, overflows, entries, root
_LAST = struct.Struct("=QQ")  # last page, transaction
_NODE = struct.Struct("=HHHH")  # low and high word of the size or the page, flags or the highest word, size of the key
_PAGE_NUMBER = struct.Struct("=Q")

_MAGIC = 0xBEEFC0DE
_BRANCH, _LEAF = 0x01, 0x02  # flags of a page
_ON_OVERFLOW_PAGES = 0x01  # flag of a node
_NO_ROOT = 2**64 - 1


class _Meta(NamedTuple):
    transaction: int
    last_page: int
    free_list: int  # root of its tree; `_NO_ROOT`: it is empty
    page_size: int


class _Lacking(Exception):
    """The file ends before a page that is in use, or that page has another format."""


def lacks_pages(file: Path) -> bool:
    """Of a store that is not open. False if the file is empty or its meta pages are damaged, which LMDB reports."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        first = _meta(descriptor, 0)
        second = first and _meta(descriptor, first.page_size)
        if first is None or second is None:
            return False
        meta = max(first, second)
        present = os.fstat(descriptor).st_size // meta.page_size
        lacking = meta.last_page + 1 - present
        if lacking <= 0:
            return False
        return lacking != sum(present <= it <= meta.last_page for it in _free_pages(descriptor, meta))
    except (_Lacking, struct.error):
        return True
    finally:
        os.close(descriptor)


def _meta(descriptor: int, at: int) -> _Meta | None:
    encoded = os.pread(descriptor, _HEADER.size + _META.size + 2 * _DATABASE.size + _LAST.size, at)
    try:
        magic, *_ = _META.unpack_from(encoded, _HEADER.size)
        free_list = _DATABASE.unpack_from(encoded, _HEADER.size + _META.size)
        last_page, transaction = _LAST.unpack_from(encoded, _HEADER.size + _META.size + 2 * _DATABASE.size)
    except struct.error:
        return None
    page_size = free_list[0]
    return _Meta(transaction, last_page, free_list[-1], page_size) if magic == _MAGIC and page_size else None


def _free_pages(descriptor: int, meta: _Meta) -> Iterator[int]:
    """Raises `_Lacking`, `struct.error`."""
    pages = [] if meta.free_list == _NO_ROOT else [meta.free_list]
    seen: set[int] = set()
    while pages:
        number = pages.pop()
        page = _read(descriptor, meta.page_size, number * meta.page_size)
        _, _, flags, lower, _ = _HEADER.unpack_from(page)
        if number in seen or not flags & (_BRANCH | _LEAF):
            raise _Lacking
        seen.add(number)
        for (at,) in struct.iter_unpack("=H", page[_HEADER.size : lower]):
            low, high, of_node, key_size = _NODE.unpack_from(page, at)
            if flags & _BRANCH:
                pages.append(low | high << 16 | of_node << 32)
                continue
            size, value = low | high << 16, at + _NODE.size + key_size
            if of_node & _ON_OVERFLOW_PAGES:
                (overflow,) = _PAGE_NUMBER.unpack_from(page, value)
                data = _read(descriptor, size, overflow * meta.page_size + _HEADER.size)
            else:
                data = page[value : value + size]
            (count,) = _PAGE_NUMBER.unpack_from(data)
            yield from struct.unpack_from(f"={count}Q", data, _PAGE_NUMBER.size)


def _read(descriptor: int, size: int, at: int) -> bytes:
    data = os.pread(descriptor, size, at)
    if len(data) < size:
        raise _Lacking
    return data
