"""What a file of procedures may use: names whose results are determined by their arguments."""

from __future__ import annotations

_EXCEPTIONS = """
    ArithmeticError AssertionError AttributeError Exception IndexError KeyError LookupError NotImplementedError
    OverflowError RuntimeError StopIteration TypeError UnicodeDecodeError UnicodeEncodeError UnicodeError ValueError
    ZeroDivisionError
"""
BUILTINS = frozenset(
    f"""
    abs all any ascii bin bool bytearray bytes callable chr dict divmod enumerate filter float hex int isinstance
    issubclass iter len list map max min next oct ord range repr reversed round slice sorted str sum tuple zip
    {_EXCEPTIONS}
    """.split()
)

TYPING = frozenset({"typing", "collections.abc", "__future__"})
"""Modules for annotations, which are removed."""

MODULES: dict[str, frozenset[str]] = {
    name: frozenset(names.split())
    for name, names in {
        "replicator.procedures": "procedure CommandError Transaction",
        "math": """
            ceil comb copysign e fabs factorial floor fmod frexp fsum gcd inf isclose isfinite isinf isnan isqrt lcm
            ldexp modf nan nextafter perm pi prod remainder sqrt tau trunc ulp
        """,
        "json": "dumps loads JSONDecodeError",
        "re": """
            ASCII DOTALL IGNORECASE MULTILINE VERBOSE compile escape findall finditer fullmatch match search split sub
            subn error
        """,
        "decimal": """
            Decimal DecimalException InvalidOperation ROUND_CEILING ROUND_DOWN ROUND_FLOOR ROUND_HALF_DOWN
            ROUND_HALF_EVEN ROUND_HALF_UP ROUND_UP ROUND_05UP
        """,
        "fractions": "Fraction",
        "string": "ascii_letters ascii_lowercase ascii_uppercase digits hexdigits octdigits punctuation",
        "itertools": """
            accumulate batched chain combinations combinations_with_replacement compress count cycle dropwhile
            filterfalse groupby islice pairwise permutations product repeat starmap takewhile zip_longest
        """,
        "functools": "cmp_to_key partial reduce",
        "operator": "add eq ge gt itemgetter le lt mul ne neg sub truediv floordiv mod",
        "collections": "ChainMap Counter OrderedDict defaultdict deque namedtuple",
        "bisect": "bisect bisect_left bisect_right insort insort_left insort_right",
        "heapq": "heapify heappop heappush heappushpop heapreplace merge nlargest nsmallest",
        "datetime": "UTC date datetime time timedelta timezone",
        "hashlib": "blake2b md5 sha1 sha256 sha512",
        "base64": "b64decode b64encode urlsafe_b64decode urlsafe_b64encode",
        "textwrap": "dedent fill shorten wrap",
    }.items()
}

IMMUTABLE_CALLS = frozenset({"Decimal", "Fraction", "timedelta", "timezone", "date", "datetime", "time", "namedtuple",
                             "compile", "int", "float", "str", "bytes", "tuple", "range"})  # fmt: skip
"""Functions whose results a module may keep."""

INSTEAD: dict[str, str] = {
    "random": "tx.random()",
    "secrets": "tx.random()",
    "uuid": "tx.uuid()",
    "time": "tx.now()",
    "os": "arguments of the procedure, or keys of the store",
    "sys": "arguments of the procedure, or keys of the store",
    "open": "keys of the store",
    "input": "arguments of the procedure",
    "print": "the returned value",
    "id": "a key of your own",
    "hash": "hashlib.sha256, as the hash of a text differs between processes",
    "set": "dict.fromkeys, as the order of a set differs between processes",
    "frozenset": "dict.fromkeys or a tuple, as the order of a set differs between processes",
    "pow": "multiplication, as the last digits depend on the C library",
    "type": "isinstance",
    "getattr": "the attribute itself",
    "setattr": "a dict",
    "hasattr": "isinstance",
    "globals": "arguments of the procedure, or keys of the store",
    "logging": "the returned value",
    "object": "None, or a text",
    "lru_cache": "nothing: results must not be kept between calls",
    "cache": "nothing: results must not be kept between calls",
}

ATTRIBUTES: dict[str, str] = {
    "now": "tx.now()",
    "today": "tx.now()",
    "utcnow": "tx.now()",
    "fromtimestamp": "datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=…), as this depends on the time zone",
    "timestamp": "(value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), as this depends on the time zone",
    "astimezone": "an offset of your own, as this depends on the time zone",
    "strftime": "isoformat(), as this depends on the node",
    "strptime": "fromisoformat(), as this depends on the locale",
    "ctime": "isoformat(), as this depends on the locale",
    "with_traceback": "the exception as it is",
    "mro": "isinstance",
    "format_map": "an f-string",
}
"""Refused on any value, and what to use; `tx.now()` is allowed."""
