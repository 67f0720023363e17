"""The read levels: how current the result of a read must be. Parses and formats levels and session tokens.

eventual                      the current store, which may lag behind the log
bounded MS [RECORDS]          every record that was in the log MS before the read, except the last RECORDS of them
session TOKEN                 everything that the client has read and written, on any node
linearizable                  every write that was confirmed, and every value that was read, before the read began
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from replicator.errors import BadRequest, Stale
from replicator.limits import MAX_BOUND
from replicator.position import Offset, Token


class LevelKind(StrEnum):
    EVENTUAL = "eventual"
    BOUNDED = "bounded"
    SESSION = "session"
    LINEARIZABLE = "linearizable"


@dataclass(frozen=True, slots=True)
class Level:
    kind: LevelKind
    max_age_ms: int = 0  # bounded
    max_records: int = 0  # bounded
    token: Token | None = None  # session

    def __str__(self) -> str:
        match self.kind:
            case LevelKind.BOUNDED:
                return f"bounded {self.max_age_ms}" + (f" {self.max_records}" if self.max_records else "")
            case LevelKind.SESSION:
                return f"session {encode_token(self.token)}" if self.token else "session"
            case other:
                return other.value


EVENTUAL = Level(LevelKind.EVENTUAL)
LINEARIZABLE = Level(LevelKind.LINEARIZABLE)


def parse_level(words: Sequence[str]) -> tuple[Level, int]:
    """The level that `words` begin with, and the number of words it takes. Raises `BadRequest`."""
    name = words[0].lower() if words else ""
    if name not in list(LevelKind):
        raise BadRequest(
            f"unknown read level '{name[:80]}': use eventual, bounded MS [RECORDS], session TOKEN or linearizable"
        )
    kind = LevelKind(name)
    if kind is LevelKind.BOUNDED:
        return _parse_bounded(words)
    if kind is LevelKind.SESSION:
        if len(words) < 2:
            raise BadRequest("session needs a token: use the one that REPL.TOKEN returned")
        return Level(kind, token=decode_token(words[1])), 2
    return Level(kind), 1


def _parse_bounded(words: Sequence[str]) -> tuple[Level, int]:
    numbers = []
    for word in words[1:3]:
        if not word.isdecimal():
            break
        numbers.append(int(word) if len(word) < 20 else MAX_BOUND + 1)
    if not numbers or max(numbers) > MAX_BOUND:
        raise BadRequest(f"bounded needs a number of milliseconds and, optionally, of records, at most {MAX_BOUND}")
    if numbers[0] == 0:
        raise BadRequest("bounded 0 can never be met: use at least 1 ms, or linearizable")
    return Level(LevelKind.BOUNDED, numbers[0], sum(numbers[1:])), 1 + len(numbers)


def encode_token(token: Token) -> str:
    return f"{token.timeline}:{token.offset}"


def decode_token(text: str) -> Token:
    """Raises `BadRequest`."""
    timeline, _, offset = text.partition(":")
    if len(timeline) != 32 or set(timeline) - set("0123456789abcdef") or not offset.isdecimal() or len(offset) > 18:
        raise BadRequest(f"{text[:80]!r} is not a token: use the one that REPL.TOKEN returned")
    return Token(timeline, Offset(int(offset)))


def check_timeline(token: Token, timeline: str) -> None:
    """Raises `Stale` if the token is of another timeline than this store."""
    if token.timeline != timeline:
        raise Stale(
            f"the token is of timeline {token.timeline}, but this cluster is on timeline {timeline}: it was restored "
            "to an earlier point, or is another cluster. Start a new session"
        )
