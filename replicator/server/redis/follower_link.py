"""The leader's end of a link to a follower: a connection after REPL.FOLLOW (messages: `server.record_stream`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from replicator.node.backlog import RecordGroup
from replicator.server.redis.resp import Encoded, Reply, Simple

ACK = Simple(b"ACK")


class RedisFollowerLink:
    """`node.backlog.FollowerLink`."""

    def __init__(self, push: Callable[[Reply], None], close: Callable[[], None]) -> None:
        self._push = push
        self.close = close

    def send(self, group: RecordGroup) -> None:
        self._push(encode_group(group))

    def request_ack(self) -> None:
        self._push(ACK)


@lru_cache(maxsize=1)  # it is sent to all followers, one after the other
def encode_group(group: RecordGroup) -> Encoded:
    parts = [b"*%d\r\n:%d\r\n" % (len(group.payloads) + 1, group.base)]
    parts += [b"$%d\r\n%b\r\n" % (len(payload), payload) for payload in group.payloads]
    return Encoded(b"".join(parts))
