"""Encodes and sends claims."""

from __future__ import annotations

import logging

from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.node.context import NodeContext
from replicator.position import Author, Epoch
from replicator.protocol.log_state import LogState
from replicator.protocol.verification import check_appended
from replicator.records.types import Claim, Header, Reason

logger = logging.getLogger(__name__)

TIMELINE_BITS = 128


def claim_record(context: NodeContext, state: LogState, leader: Author, reason: Reason) -> bytes:
    """A claim by this node, which has read the log up to `state`, that `leader` is leader of the next epoch."""
    epoch, codec = Epoch(state.epoch + 1), context.replica.codec
    version = context.replica.machine.meta.membership.version
    header = Header(version, state.timeline, epoch, context.author, state.seq, context.clock.wall_us(), state.chain)
    return codec.encode(header, codec.encode_body(Claim(leader, epoch, state.offset, reason)))


async def send_claim(context: NodeContext, reason: Reason) -> None:
    """Claim the next epoch for this node. The log decides whether it is accepted, not the answer to the append.

    Raises `LogDamage`.
    """
    state = context.replica.state
    epoch = Epoch(state.epoch + 1)
    logger.info("claiming epoch %d (%s), having read up to offset %d", epoch, reason, state.offset)
    if not state.timeline:
        state = state._replace(timeline=context.random.getrandbits(TIMELINE_BITS).to_bytes(16, "big"))
    context.roles.claim_sent(epoch)
    try:
        base = await context.log.append([claim_record(context, state, context.author, reason)])
    except (AppendRefused, AppendOutcomeUnknown) as error:
        logger.info("the claim of epoch %d: %s", epoch, error)
        context.roles.append_failed(error)
    else:
        check_appended(state, base)
