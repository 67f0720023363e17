"""Strings."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation, localcontext
from itertools import islice

from replicator.errors import BadRequest
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.commands.expiry import deadline_ms
from replicator.server.redis.commands.registry import SYNTAX, integer, long_read, read, write, wrong_arity
from replicator.server.redis.resp import OK, Reply
from replicator.steps import Steps

NOT_A_FLOAT = "value is not a valid float"
OVERFLOW = "increment or decrement would overflow"
_DIGITS = 17  # after the point, as Redis prints long doubles


@read("get", 2)
def get(keyspace: Keyspace, args: Args) -> Reply:
    return keyspace.string(args[1])


@long_read("mget", -2, (1, -1, 1))
def mget(keyspace: Keyspace, args: Args) -> Steps[Reply]:
    found: list[Reply] = []
    for key in islice(args, 1, None):
        value = keyspace.header(key)
        data = value.data if value is not None and value.tag == b"s" else None
        found.append(data)
        yield len(data or b"")
    return found


@read("strlen", 2)
def strlen(keyspace: Keyspace, args: Args) -> Reply:
    return len(keyspace.string(args[1]) or b"")


@read("getrange", 4)
def getrange(keyspace: Keyspace, args: Args) -> Reply:
    start, end = integer(args[2]), integer(args[3])
    data = keyspace.string(args[1]) or b""
    if end < start < 0:
        return b""
    start = max(0, start + len(data)) if start < 0 else start
    end = max(0, end + len(data)) if end < 0 else end
    return data[start : end + 1] if start <= end and data else b""


@write("set", -3)
def set_(keyspace: WritableKeyspace, args: Args) -> Reply:
    key, data = args[1], args[2]
    if len(args) == 3:
        keyspace.put_string(key, data)
        return OK
    options = _set_options(args, keyspace.now_ms)
    before = keyspace.header(key)
    old = keyspace.string(key) if b"get" in options else None
    refused = (b"nx" in options and before is not None) or (b"xx" in options and before is None)
    if refused:
        return old
    expires = next((options[unit] for unit in (b"ex", b"px", b"exat", b"pxat") if unit in options), None)
    if b"keepttl" in options and before is not None:
        expires = before.expires_at_ms
    if expires is not None and expires <= keyspace.now_ms:
        keyspace.remove(key)
    else:
        keyspace.put_string(key, data, expires)
    return old if b"get" in options else OK


_EXCLUSIVE = (frozenset((b"nx", b"xx")), frozenset((b"ex", b"px", b"exat", b"pxat", b"keepttl")))


def _set_options(args: Args, time_ms: int) -> dict[bytes, int | None]:
    """By name in lower case; those with a time hold when the value expires (ms since 1970). Raises `BadRequest`."""
    options: dict[bytes, int | None] = {}
    amounts: dict[bytes, bytes] = {}
    rest = iter(args[3:])
    for word in rest:
        name = word.lower()
        if name in (b"ex", b"px", b"exat", b"pxat"):
            amounts[name] = next(rest, b"")
            options[name] = None
        elif name in (b"nx", b"xx", b"get", b"keepttl"):
            options[name] = None
        else:
            raise BadRequest(SYNTAX)
    if b"" in amounts.values() or any(len(names.intersection(options)) > 1 for names in _EXCLUSIVE):
        raise BadRequest(SYNTAX)
    for name, amount in amounts.items():
        options[name] = deadline_ms(amount, name, time_ms, "set")
    return options


@write("setnx", 3)
def setnx(keyspace: WritableKeyspace, args: Args) -> Reply:
    if keyspace.header(args[1]) is not None:
        return 0
    keyspace.put_string(args[1], args[2])
    return 1


@write("setex", 4)
def setex(keyspace: WritableKeyspace, args: Args) -> Reply:
    keyspace.put_string(args[1], args[3], deadline_ms(args[2], b"ex", keyspace.now_ms, "setex"))
    return OK


@write("psetex", 4)
def psetex(keyspace: WritableKeyspace, args: Args) -> Reply:
    keyspace.put_string(args[1], args[3], deadline_ms(args[2], b"px", keyspace.now_ms, "psetex"))
    return OK


@write("getset", 3)
def getset(keyspace: WritableKeyspace, args: Args) -> Reply:
    old = keyspace.string(args[1])
    keyspace.put_string(args[1], args[2])
    return old


@write("getdel", 2)
def getdel(keyspace: WritableKeyspace, args: Args) -> Reply:
    old = keyspace.string(args[1])
    if old is not None:
        keyspace.remove(args[1])
    return old


@write("getex", -2)
def getex(keyspace: WritableKeyspace, args: Args) -> Reply:
    name = args[2].lower() if len(args) > 2 else b""
    if len(args) != {b"": 2, b"persist": 3, b"ex": 4, b"px": 4, b"exat": 4, b"pxat": 4}.get(name):
        raise BadRequest(SYNTAX)
    old, value = keyspace.string(args[1]), keyspace.header(args[1])
    if value is None or not name:
        return old
    expires = None if name == b"persist" else deadline_ms(args[3], name, keyspace.now_ms, "getex")
    if expires is not None and expires <= keyspace.now_ms:
        keyspace.remove(args[1])
    elif expires != value.expires_at_ms:
        keyspace.set_expiry(args[1], value, expires)
    return old


@write("mset", -3, (1, -1, 2))
def mset(keyspace: WritableKeyspace, args: Args) -> Reply:
    if len(args) % 2 == 0:
        raise wrong_arity(b"mset")
    for index in range(1, len(args), 2):
        keyspace.put_string(args[index], args[index + 1])
    return OK


@write("msetnx", -3, (1, -1, 2))
def msetnx(keyspace: WritableKeyspace, args: Args) -> Reply:
    if len(args) % 2 == 0:
        raise wrong_arity(b"msetnx")
    if any(keyspace.header(key) is not None for key in args[1::2]):
        return 0
    for index in range(1, len(args), 2):
        keyspace.put_string(args[index], args[index + 1])
    return 1


@write("append", 3)
def append(keyspace: WritableKeyspace, args: Args) -> Reply:
    data = (keyspace.string(args[1]) or b"") + args[2]
    _replace(keyspace, args[1], data)
    return len(data)


def _replace(keyspace: WritableKeyspace, key: bytes, data: bytes) -> None:
    """Another value, the same expiry."""
    before = keyspace.header(key)
    keyspace.put_string(key, data, before.expires_at_ms if before else None)


def or_zero(data: bytes | None) -> bytes:
    return b"0" if data is None else data


def _add(keyspace: WritableKeyspace, key: bytes, amount: int) -> int:
    number = integer(or_zero(keyspace.string(key))) + amount
    if not -(2**63) <= number < 2**63:
        raise BadRequest(OVERFLOW)
    _replace(keyspace, key, b"%d" % number)
    return number


@write("incr", 2)
def incr(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _add(keyspace, args[1], 1)


@write("decr", 2)
def decr(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _add(keyspace, args[1], -1)


@write("incrby", 3)
def incrby(keyspace: WritableKeyspace, args: Args) -> Reply:
    return _add(keyspace, args[1], integer(args[2]))


@write("decrby", 3)
def decrby(keyspace: WritableKeyspace, args: Args) -> Reply:
    amount = integer(args[2])
    if amount == -(2**63):
        raise BadRequest("decrement would overflow")
    return _add(keyspace, args[1], -amount)


@write("incrbyfloat", 3)
def incrbyfloat(keyspace: WritableKeyspace, args: Args) -> Reply:
    number = decimal(or_zero(keyspace.string(args[1])), NOT_A_FLOAT)
    amount = decimal(args[2], NOT_A_FLOAT)
    data = add_decimals(number, amount)
    _replace(keyspace, args[1], data)
    return data


def decimal(text: bytes, message: str) -> Decimal:
    """A number as Redis takes a long double. Raises `BadRequest`."""
    try:
        number = Decimal(text.decode("ascii"))
    except (InvalidOperation, UnicodeDecodeError):
        raise BadRequest(message) from None
    if number.is_nan() or text[:1].isspace() or text[-1:].isspace() or b"_" in text:
        raise BadRequest(message)
    if number.is_finite() and (abs(number.adjusted()) > 4900):
        raise BadRequest(message)
    return number


def add_decimals(first: Decimal, second: Decimal) -> bytes:
    """The sum in plain digits. Raises `BadRequest` if it is infinite."""
    if not (first.is_finite() and second.is_finite()):
        raise BadRequest("increment would produce NaN or Infinity")
    with localcontext(prec=10_000):
        text = f"{first + second:.{_DIGITS}f}".rstrip("0").rstrip(".")
    return b"0" if text in ("-0", "") else text.encode()
