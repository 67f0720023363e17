"""The errors of the client.

ReplicatorError
├── ConfigError              a setting is wrong: an invalid address, the name of another cluster
├── Definite                 no effect, now or later
│   ├── BadRequest           not sent: an argument or a token is invalid
│   ├── Stale                no node could meet the read level
│   └── Rejected             refused; `code` is the first word of the node's error
│       └── Unavailable      no node executed it in time
└── Indefinite
    └── UnknownOutcome       a write may or may not take effect
"""

from __future__ import annotations

from replicator.errors import Definite, Indefinite


class Rejected(Definite):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Unavailable(Rejected):
    def __init__(self, message: str) -> None:
        super().__init__("UNAVAILABLE", message)


class UnknownOutcome(Indefinite):
    """`id`: send the write again with it to learn or complete its outcome. None if it was sent without an id."""

    def __init__(self, message: str, id: str | None) -> None:
        super().__init__(message)
        self.id = id
