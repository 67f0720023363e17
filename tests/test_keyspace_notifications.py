"""How keyspace notifications are sent: in slices of time, in order, to those who subscribe."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.limits import (
    EVENT_BYTES_AT_ONCE,
    EVENT_SLICE_MS,
    JOINED_EVENT_BYTES,
    MAX_EVENT_PATTERNS,
    MAX_EVENT_QUEUE_BYTES,
    SLICE_MS,
)
from replicator.node.replica import ChangeListener
from replicator.patterns import glob
from replicator.records.types import Change, Single, Write
from replicator.server.backend import Backend
from replicator.server.redis.keyspace_notifications import KeyspaceNotifications
from replicator.server.redis.resp import Encoded
from replicator.store.rows import STRING
from replicator.store.values import encode_value
from tests.keyspace_fixture import NOW_MS

VALUE = encode_value(STRING, b"v")


class FakeBackend:
    change_listener: ChangeListener | None = None


class Listener:
    def __init__(self, events: KeyspaceNotifications, protocol: int = 2) -> None:
        self.protocol = protocol
        self.buffers: list[Encoded] = []
        self.received: list[tuple[str, str]] = []  # channel or pattern, and the key
        self.disconnected = False
        self.topics: list[bytes] = []
        self._events = events
        self._parser = hiredis.Reader()

    def deliver(self, messages: Encoded) -> None:
        assert not self.disconnected
        self.buffers.append(messages)
        self._parser.feed(messages.data)
        while (message := self._parser.gets()) is not False:
            topic, channel, text = message[1].decode(), message[-2].decode(), message[-1].decode()
            self.received.append((topic, text if channel.startswith("__keyevent") else channel.partition(":")[2]))

    def disconnect(self, reason: str) -> None:
        for topic in list(self.topics):
            self.unsubscribe(topic)
        self.disconnected = True

    def subscribe(self, *topics: bytes) -> None:
        for topic in topics:
            self.topics.append(topic)
            (self._events.add_pattern if b"*" in topic else self._events.add_channel)(topic, self)

    def unsubscribe(self, topic: bytes) -> None:
        self.topics.remove(topic)
        (self._events.remove_pattern if b"*" in topic else self._events.remove_channel)(topic, self)


class Stage:
    """A clock that each look at it moves on by `look_s`."""

    def __init__(self, look_s: float = 0.0) -> None:
        self.look_s = look_s
        self.now_s = 0.0
        self.backend = FakeBackend()
        self.events = KeyspaceNotifications(cast(Backend, self.backend), self._clock)

    def listener(self, *topics: bytes, protocol: int = 2) -> Listener:
        listener = Listener(self.events, protocol)
        listener.subscribe(*topics)
        return listener

    def apply(self, *bodies: Single) -> None:
        if self.backend.change_listener is not None:
            self.backend.change_listener(NOW_MS * 1000, bodies)

    async def drain(self) -> list[float]:
        """How long each slice took."""
        slices: list[float] = []
        while self.events._steps is not None:
            before_s = self.now_s
            await asyncio.sleep(0)
            slices.append(self.now_s - before_s)
        return slices

    def _clock(self) -> float:
        self.now_s += self.look_s
        return self.now_s


def keys(*rows: str, value: bytes = VALUE) -> Write:
    """A transaction that sets them."""
    return Write(tuple(Change("kv", row.encode(), b"", None, value) for row in rows))


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"{number:05}" for number in range(first, first + count)]


async def test_many_patterns_are_matched_in_slices() -> None:
    stage = Stage(look_s=0.001)
    listener = stage.listener(*(b"__key*none%d" % number for number in range(MAX_EVENT_PATTERNS)))
    stage.apply(keys(*numbered(50)))
    assert stage.now_s == 0.0  # nothing is done where it is applied
    slices = await stage.drain()
    assert max(slices) <= (SLICE_MS + 2) / 1000
    assert len(slices) > 50 * MAX_EVENT_PATTERNS / (SLICE_MS + 1)
    assert not listener.received


async def test_slices_are_longer_while_much_is_queued() -> None:
    stage = Stage(look_s=0.001)
    listener = stage.listener(b"__keyevent@0__:set")
    value = bytes(MAX_EVENT_QUEUE_BYTES // 8)
    for number in range(4):
        stage.apply(keys(str(number), value=VALUE + value), keys(*numbered(100, 1000 * number)))
    slices = await stage.drain()
    assert 2 * SLICE_MS < max(slices) * 1000 <= EVENT_SLICE_MS + 2
    assert slices[-2] * 1000 <= SLICE_MS + 2
    assert len(listener.received) == 404


async def test_messages_are_sent_in_slices() -> None:
    stage = Stage()  # there is always time
    listeners = [stage.listener(b"__keyevent*") for _ in range(100)]
    stage.apply(keys(*numbered(1000)))
    sent, most = 0, 0
    while stage.events._steps is not None:
        await asyncio.sleep(0)
        total = sum(len(buffer.data) for listener in listeners for buffer in listener.buffers)
        sent, most = total, max(most, total - sent)
    assert sent > 5 * EVENT_BYTES_AT_ONCE
    assert most < EVENT_BYTES_AT_ONCE + 2 * JOINED_EVENT_BYTES


@pytest.mark.parametrize("topics", [[b"__keyevent@0__:set"], [b"__key*", b"__keyspace@0__:00001", b"__keyevent*"]])
async def test_listeners_with_the_same_topics_share_what_they_are_sent(topics: list[bytes]) -> None:
    stage = Stage()
    first, second, third = (stage.listener(*topics, protocol=protocol) for protocol in (2, 2, 3))
    stage.listener(*topics[:1])
    stage.apply(keys(*numbered(1000)))
    await stage.drain()
    assert len(first.buffers) > 1
    assert all(one is other for one, other in zip(first.buffers, second.buffers, strict=True))
    assert first.received == second.received == third.received
    assert (first.buffers[0].data[:1], third.buffers[0].data[:1]) == (b"*", b">")


async def test_who_subscribes_is_sent_nothing_that_was_applied_before() -> None:
    stage = Stage()
    stage.listener(b"__keyevent@0__:set")
    stage.apply(keys("a"))
    late = stage.listener(b"__keyevent@0__:set", b"__keyspace@0__:b")
    stage.apply(keys("b"))
    await stage.drain()
    assert late.received == [("__keyspace@0__:b", "b"), ("__keyevent@0__:set", "b")]


async def test_who_unsubscribes_is_sent_nothing_afterwards_and_the_other_topics_once() -> None:
    stage = Stage(look_s=0.001)
    topics = b"__keyevent@0__:set", b"__keyspace@0__:*"
    stayed, left = stage.listener(*topics), stage.listener(*topics)
    stage.listener(topics[1])
    stage.apply(keys(*numbered(20)))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not left.received and stage.events._filled  # collected, and not sent
    left.unsubscribe(topics[0])
    before = len(left.received)
    assert before
    await stage.drain()
    assert {topic for topic, _ in left.received[before:]} == {topics[1].decode()}
    assert left.received == [it for at, it in enumerate(stayed.received) if at < before or it[0] == topics[1].decode()]


async def test_if_too_much_waits_all_listeners_are_disconnected() -> None:
    stage = Stage(look_s=0.001)
    listeners = [stage.listener(*[b"__keyspace@0__:%d" % number for number in range(20)]) for _ in range(30)]
    value = VALUE + bytes(MAX_EVENT_QUEUE_BYTES // 4)
    stage.apply(keys("0", value=value))
    listeners.append(stage.listener(b"__key*"))  # its subscription is queued
    for number in range(1, 4):
        stage.apply(keys(str(number), value=value))
    assert not any(it.disconnected for it in listeners)
    slices = await stage.drain()
    assert all(it.disconnected for it in listeners)
    assert not any(it.received for it in listeners)
    assert max(slices) <= (SLICE_MS + 2) / 1000 and len(slices) > 1
    assert stage.backend.change_listener is None and not stage.events.listening
    next_one = stage.listener(b"__keyevent@0__:set")
    stage.apply(keys("a"))
    await stage.drain()
    assert next_one.received == [("__keyevent@0__:set", "a")]


async def test_a_pattern_is_compared_with_channels_that_were_seen_before() -> None:
    stage = Stage()
    stage.listener(b"__keyevent*")
    stage.apply(keys("a"))
    await stage.drain()
    second = stage.listener(b"__keyevent@0__:s*")
    stage.apply(keys("b"))
    await stage.drain()
    assert second.received == [("__keyevent@0__:s*", "b")]


async def test_one_record_is_queued_however_large_it_is() -> None:
    stage = Stage()
    listener = stage.listener(b"__keyevent@0__:set")
    stage.apply(keys("a", value=VALUE + bytes(MAX_EVENT_QUEUE_BYTES + 1)))
    await stage.drain()
    assert listener.received == [("__keyevent@0__:set", "a")]


async def test_nothing_is_queued_for_nobody() -> None:
    stage = Stage()
    listener = stage.listener(b"__key*")
    stage.apply(keys("a"))
    stage.apply(keys("b"))
    listener.unsubscribe(b"__key*")
    assert stage.backend.change_listener is None
    assert not stage.events._queue and not stage.events._queued_bytes
    await stage.drain()
    assert not listener.received


# All that can happen, in any order

TOPICS = [b"__keyevent@0__:set", b"__keyspace@0__:a", b"__keyspace@0__:*", b"__key*", b"__keyspace@0__:[ab]*"]
TOPICS += [b"__keyspace@0__:%d" % number for number in range(10)]  # more than those of listeners that are grouped
ACTIONS = st.one_of(
    st.tuples(st.just("apply"), st.lists(st.sampled_from("abc0"), min_size=1, max_size=4)),
    st.tuples(st.just("toggle"), st.integers(0, 3), st.sampled_from(TOPICS[:5])),
    st.tuples(st.just("toggle all"), st.integers(0, 3)),
    st.tuples(st.just("tick"), st.integers(1, 4)),
)


class Expected:
    """What a listener is to receive: for each topic, the events applied since it subscribed, in their order."""

    def __init__(self, stage: Stage, protocol: int) -> None:
        self.listener = stage.listener(protocol=protocol)
        self.events: dict[bytes, list[tuple[int, str]]] = {}  # by topic, those not received yet: number and key
        self._checked = 0
        self._last = -1  # event received

    def applied(self, number: int, row: str) -> None:
        for channel in (f"__keyspace@0__:{row}".encode(), b"__keyevent@0__:set"):
            for topic, events in self.events.items():
                if glob(topic).match(channel):
                    events.append((number, row))

    def toggle(self, topic: bytes) -> None:
        if topic in self.events:
            self.listener.unsubscribe(topic)
            self.check()
            del self.events[topic]
        else:
            self.listener.subscribe(topic)
            self.events[topic] = []

    def check(self) -> None:
        received = self.listener.received
        for topic, row in received[self._checked :]:
            number, expected = self.events[topic.encode()].pop(0)
            assert expected == row
            assert number >= self._last
            self._last = number
        self._checked = len(received)


@given(st.lists(ACTIONS, max_size=40))
def test_each_event_is_sent_once_and_in_order_to_all_who_subscribe(actions: list[Any]) -> None:
    asyncio.run(_perform(actions))


async def _perform(actions: list[Any]) -> None:
    stage = Stage(look_s=0.001)
    expected = [Expected(stage, protocol) for protocol in (2, 2, 3, 2)]
    number = 0
    for action in actions:
        match action:
            case ("apply", rows):
                names = list(dict.fromkeys(rows))
                stage.apply(keys(*names))
                for row in names:
                    number += 1
                    for it in expected:
                        it.applied(number, row)
            case ("toggle", index, topic):
                expected[index].toggle(topic)
            case ("toggle all", index):
                for topic in TOPICS:
                    expected[index].toggle(topic)
            case ("tick", count):
                for _ in range(count):
                    await asyncio.sleep(0)
        for it in expected:
            it.check()
    await stage.drain()
    for it in expected:
        it.check()
        assert not any(it.events.values())
        it.listener.disconnect("")
    events = stage.events
    assert not (events.listening or events._groups or events._shared or events._channels or events._patterns)
    assert not (events._filled or events._subscribing or events._matchers or events._pattern_counts)
