"""The timing that all nodes follow (`protocol.timing`): its first record, and changes requested by an operator."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from replicator.config import check_known
from replicator.errors import Busy
from replicator.node.client_writes import check_leads
from replicator.node.context import NodeContext
from replicator.node.writes import PendingWrite
from replicator.records.types import Timing

logger = logging.getLogger(__name__)


def follow(context: NodeContext, timing: Timing) -> None:
    """A record with the timing was read, or committed by this leader."""
    context.roles.timing_changed(timing)
    log_ignored(context)


def ignored_settings(context: NodeContext) -> dict[str, int]:
    """The settings in `[timing]` of this node's config that differ from those that it follows."""
    if context.replica.machine.timing.current is None:
        return {}
    return {
        name: getattr(context.configured_timing, name)
        for name in sorted(context.configured_names)
        if getattr(context.configured_timing, name) != getattr(context.timing, name)
    }


def log_ignored(context: NodeContext) -> None:
    for name, value in ignored_settings(context).items():
        logger.warning(
            "timing.%s is %d in the config of this node, but the cluster has %d: `replicator cluster timing` changes "
            "it, the config does not",
            name,
            value,
            getattr(context.timing, name),
        )


class TimingChanges:
    """Operators' requests raise `NotLeader` or `Busy` at a node that is not leader."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._record: PendingWrite | None = None  # the last one that was proposed here

    def append_first(self) -> None:
        """A leader of a log without a record of the timing appends the one that it is configured with."""
        if self._context.replica.machine.timing.current is None and not self._in_flight:
            self._record = self._context.enqueue_own(self._context.configured_timing)

    def change(self, settings: Mapping[str, int]) -> Timing:
        """Change these settings only. Returns the whole timing that was proposed.

        Raises `ConfigError`, `BadRequest` and `Busy` as `TimingState.check_change`.
        """
        context = self._context
        check_leads(context)
        check_known("timing", settings, Timing.__dataclass_fields__)
        if self._in_flight or context.replica.machine.timing.current is None:
            raise Busy("another change of the timing is not in effect yet: try again")
        changed = replace(context.timing, **settings)
        if changed != context.timing:
            context.roles.timing.check_change(changed, context.clock.elapsed_ms())
            self._record = context.enqueue_own(changed)
        return changed

    @property
    def _in_flight(self) -> bool:
        return self._record is not None and self._record.in_flight
