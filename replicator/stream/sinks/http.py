"""Batches of envelopes as JSON arrays, sent to an HTTP endpoint at least once.

A request that is repeated has the same `Idempotency-Key`, unless the process was killed in between: then the changes
come again, perhaps in other batches. `source.timeline`, `source.offset`, `source.index`, and whether `op` is `r`
identify a change.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from replicator import __version__
from replicator.errors import ConfigError
from replicator.limits import SINK_REQUEST_BYTES, SINK_REQUEST_CHANGES
from replicator.stream.change import Change, Op
from replicator.stream.json_envelope import JsonFormat
from replicator.stream.position import StreamPosition
from replicator.stream.sinks.checkpoint_file import CheckpointFile, StoredCheckpoint, failed
from replicator.stream.sinks.port import SinkFailed, SinkUnavailable

TIMEOUT_S = 30.0
MAX_RETRY_AFTER_S = 3600.0
_MAX_REPLY_BYTES = 64 << 10
_REASON_CHARS = 300

_RETRIED = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS}
_MISCONFIGURED = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
}
"""The URL or the login is wrong, whatever the changes are."""


class HttpSink:
    def __init__(
        self,
        url: str,
        checkpoint: Path,
        dead_letters: Path | None = None,
        authorization: str = "",
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`authorization`: the header of this name. `wall_s`: seconds since 1970."""
        self._url = url
        self._checkpoint = CheckpointFile(checkpoint)
        self._dead_letters = dead_letters
        self._authorization = authorization
        self._wall_s = wall_s
        self._format = JsonFormat()
        self._connection: http.client.HTTPConnection | None = None
        self._batch: Sequence[Change] = ()
        self._sent = 0  # changes of `_batch` that the endpoint has, or that are dead letters

    def open(self) -> StreamPosition | None:
        self.close()
        if self._dead_letters is not None:
            try:
                os.close(self._open_dead_letters(self._dead_letters))
            except OSError as error:
                raise ConfigError(f"{self._dead_letters} cannot be written ({error.strerror})") from error
        found = self._checkpoint.load()
        return None if found is None else found.position

    def write(self, changes: Sequence[Change], position: StreamPosition) -> None:
        if changes is not self._batch:
            self._batch, self._sent = changes, 0
        encoded = [self._format.encode(change) for change in changes[self._sent :]]
        at = 0
        while at < len(encoded):
            end = _end_of_request(encoded, at)
            self._deliver(changes[self._sent : self._sent + end - at], encoded[at:end])
            self._sent += end - at
            at = end
        self._checkpoint.save(StoredCheckpoint(position))
        self._batch, self._sent = (), 0

    def tick(self) -> None:
        pass

    def delete_checkpoint(self) -> None:
        self._checkpoint.delete()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _deliver(self, changes: Sequence[Change], encoded: Sequence[bytes]) -> None:
        """Raises `SinkUnavailable`, `SinkFailed`."""
        status, why, retry_after = self._post(_idempotency_key(changes), b"[" + b",\n".join(encoded) + b"]")
        if 200 <= status < 300:
            return
        said = f"{self._url} answers {status}{why and ': '}{why}"
        if status in _RETRIED or status >= 500:
            raise SinkUnavailable(said, self._retry_after_s(retry_after))
        if status < 400:
            raise SinkFailed(f"{said}: redirections are not followed, use the URL that it names")
        if status in _MISCONFIGURED:
            raise SinkFailed(f"{said}: correct the URL, or REPLICATOR_SINK_AUTHORIZATION")
        if len(changes) > 1:  # some of them may be accepted
            middle = len(changes) // 2
            self._deliver(changes[:middle], encoded[:middle])
            self._deliver(changes[middle:], encoded[middle:])
            return
        self._write_dead_letter(encoded[0], status, why, said)

    def _post(self, key: str, body: bytes) -> tuple[int, str, str | None]:
        """The status, the beginning of the reply, and the header Retry-After. Raises `SinkUnavailable`."""
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": f'"{key}"',
            "User-Agent": f"replicator/{__version__}",
        }
        if self._authorization:
            headers["Authorization"] = self._authorization
        parts = urlsplit(self._url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        while True:
            was_open = self._connection is not None
            try:
                return self._sent_once(path, body, headers)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if was_open and isinstance(error, ConnectionError):
                    continue  # the endpoint has closed a connection that was idle
                raise SinkUnavailable(f"{self._url} does not answer: {_reason(error)}") from error

    def _sent_once(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, str | None]:
        """Raises `OSError`, `HTTPException`."""
        connection = self._connection = self._connection or self._connected()
        connection.request("POST", path, body, headers)
        reply = connection.getresponse()
        said = reply.read(_MAX_REPLY_BYTES)
        if not reply.isclosed():  # a longer one
            self.close()
        why = " ".join(said.decode(errors="replace").split())[:_REASON_CHARS]
        return reply.status, why, reply.headers.get("Retry-After")

    def _connected(self) -> http.client.HTTPConnection:
        parts = urlsplit(self._url)
        assert parts.hostname is not None
        if parts.scheme == "https":
            return http.client.HTTPSConnection(
                parts.hostname, parts.port, timeout=TIMEOUT_S, context=ssl.create_default_context()
            )
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT_S)

    def _retry_after_s(self, retry_after: str | None) -> float:
        if retry_after is None:
            return 0.0
        try:
            seconds = float(retry_after)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(retry_after).timestamp() - self._wall_s()
            except ValueError:
                return 0.0
        return min(MAX_RETRY_AFTER_S, max(0.0, seconds))

    def _write_dead_letter(self, envelope: bytes, status: int, why: str, said: str) -> None:
        """Raises `SinkFailed`."""
        if self._dead_letters is None:
            raise SinkFailed(f"{said}: --dead-letters PATH keeps the changes that it refuses, and goes on")
        letter = {"status": status, "reason": why, "change": json.loads(envelope)}
        try:
            file = self._open_dead_letters(self._dead_letters)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                _write_all(file, json.dumps(letter, ensure_ascii=False).encode() + b"\n")
                os.fdatasync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise failed(self._dead_letters, error) from error

    @staticmethod
    def _open_dead_letters(path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _end_of_request(encoded: Sequence[bytes], start: int) -> int:
    end, size = start, 0
    while end < len(encoded) and end - start < SINK_REQUEST_CHANGES:
        size += len(encoded[end])
        if size > SINK_REQUEST_BYTES and end > start:
            break
        end += 1
    return end


def _idempotency_key(changes: Sequence[Change]) -> str:
    first, last = changes[0], changes[-1]
    source = first.source
    return f"{source.cluster}/{source.timeline}/{_named(first)}/{_named(last)}/{len(changes)}"


def _named(change: Change) -> str:
    """A change of the content of a snapshot may have the position of a change in the log."""
    return f"r{change.position}" if change.op is Op.READ else str(change.position)


def _write_all(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no reply within {TIMEOUT_S:.0f} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
