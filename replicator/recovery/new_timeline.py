"""Begins the log of a restored cluster, and ends the former one (`protocol.timeline`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, StoreError
from replicator.log.port import AppendOutcomeUnknown, AppendRefused, Log
from replicator.node.log_start import FIRST, first_entries
from replicator.position import Author, NodeId, Offset, Seq
from replicator.protocol.acceptance import judge
from replicator.protocol.log_state import LogState
from replicator.protocol.timeline import RESTORE, continued_as, first_claim, last_claim
from replicator.records.chain import link
from replicator.records.codec import RecordCodec
from replicator.records.types import Body, Checkpoint, Claim, Header, Membership, Record, Single
from replicator.recovery.accepted_log import bounds_of, read_accepted
from replicator.store.machine import open_machine

_ATTEMPTS = 10  # at an append: others may append meanwhile


@dataclass(frozen=True, slots=True)
class NewTimeline:
    """What is chosen once for a restore, so that a repetition writes the same records."""

    timeline: str  # 32 hexadecimal digits
    incarnation: int
    timestamp_us: int

    @property
    def author(self) -> Author:
        return Author(RESTORE, self.incarnation)


class FirstRecords(NamedTuple):
    payloads: list[bytes]
    bodies: list[Single]
    state: LogState  # after them


def first_records(
    new: NewTimeline, content: LogState, digest: int, entries: int, membership: Membership
) -> FirstRecords:
    """Of the new log, for a store with this content, which is at `content` (`protocol.timeline.content_of`)."""
    codec, state = RecordCodec(), content
    bodies: list[Single] = [first_claim(content, new.author), Checkpoint(digest, entries), membership]
    payloads: list[bytes] = []
    for offset, body in enumerate(bodies):
        encoded = codec.encode_body(body)
        header = _header(new, membership.version, state, body, encoded)
        state, void = judge(state, Offset(offset), Record(header, body, encoded))
        if void is not None:
            raise StoreError(f"a record of the new timeline is void: {void}")
        payloads.append(codec.encode(header, encoded))
    return FirstRecords(payloads, bodies, state)


def _header(new: NewTimeline, version: int, state: LogState, body: Body, encoded: bytes) -> Header:
    timeline = bytes.fromhex(new.timeline)
    if isinstance(body, Claim):
        return Header(version, timeline, body.epoch, new.author, state.seq, new.timestamp_us, state.chain)
    chain = link(state.chain, encoded)
    return Header(version, timeline, state.epoch, new.author, Seq(state.seq + 1), new.timestamp_us, chain)


def apply_first_records(store: Path, cluster: str, topic_id: str, new: NewTimeline) -> list[bytes]:
    """To a store that was rebased on the new log and is not open. Returns their payloads.

    Raises `StoreError`, `Diverged`.
    """
    machine = open_machine(store, cluster, topic_id)
    try:
        meta = machine.meta
        records = first_records(new, meta.state, meta.digest, meta.entries, meta.membership)
        machine.apply(records.bodies, records.state)
        return records.payloads
    finally:
        machine.close()


async def begin_log(log: Log, topic: str, payloads: list[bytes]) -> None:
    """Append the first records, unless they are there already.

    Raises `ConfigError` if others are there, and `BrokerUnavailable`.
    """
    for _ in range(_ATTEMPTS):
        if await log.end() > FIRST:
            found = [payload for _, payload in await first_entries(log, len(payloads))]
            if found != payloads:
                raise ConfigError(f"topic {topic} has records of another cluster: choose another --name")
            return
        try:
            await log.append(payloads)
        except AppendRefused as error:
            raise BrokerUnavailable(f"the new log could not be begun: {error}. Try again") from error
        except AppendOutcomeUnknown:
            continue
    raise BrokerUnavailable(f"Kafka does not confirm that topic {topic} has the first records: try again")


async def end_log(log: Log, known: LogState, cluster: str, new: NewTimeline) -> str:
    """End the log, whose state is `known` at some offset, for it is continued by `cluster`.

    Returns the cluster that continues it: another one if it had ended before. Raises `LogDamage`, `BrokerUnavailable`.
    """
    codec = RecordCodec()
    for _ in range(_ATTEMPTS):
        known, version = await _read_to_end(log, known)
        name = continued_as(known)
        if name is not None:
            return name
        claim = last_claim(known, cluster)
        author = Author(NodeId(claim.leader.node), new.incarnation)
        header = Header(version, known.timeline, claim.epoch, author, known.seq, new.timestamp_us, known.chain)
        with contextlib.suppress(AppendOutcomeUnknown):
            try:
                await log.append([codec.encode(header, codec.encode_body(claim))])
            except AppendRefused as error:
                raise BrokerUnavailable(f"the former log could not be ended: {error}. Try again") from error
    raise BrokerUnavailable(
        "the former log was not ended, as its leader changes all the time: stop its nodes, and try again"
    )


async def _read_to_end(log: Log, state: LogState) -> tuple[LogState, int]:
    """And the version of its last record. Raises `LogDamage`, `BrokerUnavailable`."""
    version = 1
    async with contextlib.aclosing(read_accepted(log, state, await bounds_of(log))) as read:
        async for judged in read:
            state = judged.state
            version = judged.version or version
    if not state.timeline:
        raise LogDamage("the log has no accepted record")
    return state, version
