"""Reports the state of a node to systemd, or to another service manager with the same protocol (sd_notify(3)).

The protocol is one datagram to the socket that `NOTIFY_SOCKET` names, so this needs no library.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, MutableMapping
from typing import NamedTuple

from replicator.intervals import SERVICE_STATUS_S
from replicator.node.health import NodeState

NOTIFY_SOCKET = "NOTIFY_SOCKET"
MAX_STATUS_CHARS = 500

logger = logging.getLogger(__name__)


class ServiceState(NamedTuple):
    """Of the process of a node, whether it runs a node or waits for what that needs."""

    state: NodeState
    detail: str  # what it waits for, or its role

    @property
    def is_ready(self) -> bool:
        return self.state is NodeState.SERVING

    @property
    def text(self) -> str:
        """One line."""
        line = f"{self.state}: {' '.join(self.detail.split())}".removesuffix(": ")
        return line if len(line) <= MAX_STATUS_CHARS else f"{line[: MAX_STATUS_CHARS - 1]}…"


class ServiceManager:
    """Without an address, there is no service manager, and nothing is sent."""

    def __init__(self, address: str = "") -> None:
        """`address`: a path, or `@` and the name of an abstract socket."""
        self._address = address
        self._ready = False
        self._status = ""
        self._failed = False

    @classmethod
    def taken_from(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """The address is removed, so that processes which this one starts do not report for it."""
        return cls(environment.pop(NOTIFY_SOCKET, ""))

    async def report(self, state: Callable[[], ServiceState]) -> None:
        """Report each change of the state until cancelled. What could not be sent is sent again."""
        while self._address:
            now = state()
            lines = [] if now.text == self._status else [f"STATUS={now.text}"]
            if now.is_ready and not self._ready:
                lines.append("READY=1")
            if lines and self._send(lines):
                self._status = now.text
                self._ready |= now.is_ready
            await asyncio.sleep(SERVICE_STATUS_S)

    def stopping(self) -> None:
        if self._address:
            self._send(["STATUS=stopping", "STOPPING=1"])
            self._address = ""  # nothing may be reported after that

    def _send(self, lines: list[str]) -> bool:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as out:
                out.connect(f"\0{self._address[1:]}" if self._address.startswith("@") else self._address)
                out.send("\n".join(lines).encode())
        except (OSError, ValueError) as error:
            if not self._failed:
                logger.warning("the service manager cannot be notified at %s: %s", self._address, error)
            self._failed = True
            return False
        self._failed = False
        return True
