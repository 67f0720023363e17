"""A connection for requests about one partition. aiokafka opens it, with TLS and SASL, and is not used afterwards.

A broker answers the requests of a connection in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from struct import Struct
from struct import error as StructError
from typing import Any, Protocol

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import CorrelationIdError, IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from replicator.log.kafka.requests import REQUESTS, PartitionRequest

_SIZE = Struct(">i")
_HEADER = Struct(">ihhih")  # size, API key, API version, correlation id, length of the client id, which follows
_CORRELATION_ID = Struct(">i")
_ANSWER_AT = _SIZE.size + _CORRELATION_ID.size


class Connection(Protocol):
    def connected(self) -> bool: ...

    async def send(self, request: PartitionRequest) -> Any:
        """Its answer. Raises `KafkaError`, `OSError`. If cancelled, the request may still be executed."""
        ...

    def close(self) -> None: ...


class BrokerConnection(asyncio.Protocol):
    def __init__(self, opened: AIOKafkaConnection, transport: asyncio.Transport, client_id: bytes) -> None:
        """Use `open`."""
        self._opened = opened
        self._transport = transport
        self._client_id = client_id
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._expected = _SIZE.size  # as many bytes must have been received for the next step
        self._unanswered: deque[tuple[int, PartitionRequest, asyncio.Future[Any]]] = deque()
        self._correlation_id = 0
        transport.set_protocol(self)

    @classmethod
    async def open(cls, connection: AIOKafkaConnection, client_id: str) -> BrokerConnection:
        """`connection`: not connected yet, with that client id. Raises `KafkaError`, `OSError`, `TimeoutError`."""
        _, writer = await connection.connect()
        try:
            response = await connection.send(ApiVersionRequest())
            check_versions({key: (lowest, highest) for key, lowest, highest in response.api_versions})
        except BaseException:
            connection.close()
            raise
        return cls(connection, writer.transport, client_id.encode())

    def connected(self) -> bool:
        return not self._transport.is_closing()

    async def send(self, request: PartitionRequest) -> Any:
        if self._transport.is_closing():
            raise KafkaConnectionError("the connection is closed")
        self._correlation_id = id = (self._correlation_id + 1) & 0x7FFFFFFF
        body = request.encode()
        client_id = self._client_id
        size = _HEADER.size - _SIZE.size + len(client_id) + len(body)
        header = _HEADER.pack(size, request.API_KEY, request.API_VERSION, id, len(client_id))
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._unanswered.append((id, request, answer))
        self._transport.writelines((header, client_id, body))
        return await answer

    def close(self) -> None:
        self._close(KafkaConnectionError("the connection was closed"))

    # Called by the transport

    def data_received(self, data: bytes) -> None:
        received = self._received
        if not received and len(data) >= _SIZE.size and len(data) == _SIZE.size + _SIZE.unpack_from(data)[0]:
            self._answered(data)  # the common case, without a copy
            return
        received += data
        while len(received) >= self._expected:
            if self._expected == _SIZE.size:
                [size] = _SIZE.unpack_from(received)
                if size < _CORRELATION_ID.size:
                    self._close(KafkaConnectionError(f"an answer of {size} bytes"))
                    return
                self._expected += size
                continue
            with memoryview(received) as view:
                frame = bytes(view[: self._expected])
            del received[: self._expected]
            self._expected = _SIZE.size
            self._answered(frame)

    def connection_lost(self, error: Exception | None) -> None:
        self._close(KafkaConnectionError("the broker has closed the connection" if error is None else str(error)))

    def _answered(self, frame: bytes) -> None:
        """Of the requests without an answer, it answers the first."""
        try:
            id, request, answer = self._unanswered[0]
            if _CORRELATION_ID.unpack_from(frame, _SIZE.size) != (id,):
                raise CorrelationIdError(f"the answer is not to request {id}")
            decoded = request.decode(frame, _ANSWER_AT)
        except (CorrelationIdError, IndexError, StructError) as error:
            self._close(KafkaConnectionError(f"an unexpected answer: {error}"))
            return
        self._unanswered.popleft()
        if not answer.done():
            answer.set_result(decoded)

    def _close(self, error: KafkaConnectionError) -> None:
        """All requests without an answer end with `error`."""
        self._opened.close()
        while self._unanswered:
            _, _, answer = self._unanswered.popleft()
            if not answer.done():
                answer.set_exception(error)


def check_versions(supported: dict[int, tuple[int, int]]) -> None:
    """`supported`: by API key, the lowest and the highest version. Raises `IncompatibleBrokerVersion`."""
    for request in REQUESTS:
        lowest, highest = supported.get(request.API_KEY, (0, -1))
        if not lowest <= request.API_VERSION <= highest:
            raise IncompatibleBrokerVersion(
                f"the broker supports versions {lowest} to {highest} of {request.__name__}, not {request.API_VERSION}"
            )
