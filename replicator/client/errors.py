"""How a request can end, other than well.

ReplicatorError
├── ConfigError              the client was given something wrong: an address, the name of another cluster
├── Definite                 no effect, now or later
│   ├── BadRequest           not sent: a value or a token is none
│   ├── Stale                no node could meet the read level
│   └── Rejected             refused; `code` is the first word of the node's error
│       └── Unavailable      no node took it in time
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
    """`id`: under which it may be sent again, to learn its end or bring it about; None if it was sent under none."""

    def __init__(self, message: str, id: str | None) -> None:
        super().__init__(message)
        self.id = id
