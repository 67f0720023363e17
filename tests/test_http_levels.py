"""Over HTTP: reads at each level, and changes of modes and policies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from replicator.position import NodeId
from replicator.protocol.timing import Timeouts
from replicator.records.types import Membership, Mode, Policy, WaitFor, WriteMode
from replicator.store.rows import STRING
from replicator.store.values import encode_value
from tests.memory_cluster import RunningNode, until
from tests.modes_cluster import ALL, ASYNC, SYNC, ModesCluster
from tests.test_admin import PASSWORD, HttpClient, HttpServers

POLICIES: list[tuple[dict[str, Any], Policy]] = [
    ({"write": "async"}, Policy()),
    ({"write": "sync"}, ALL),
    ({"write": "sync", "wait_for": "all", "quorum": 0, "named": []}, ALL),
    ({"write": "sync", "wait_for": "quorum", "quorum": 1}, Policy(WriteMode.SYNC, WaitFor.QUORUM, 1)),
    (
        {"write": "sync", "wait_for": "named", "named": ["n2"]},
        Policy(WriteMode.SYNC, WaitFor.NAMED, 0, (NodeId("n2"),)),
    ),
    ({"write": "suspend"}, Policy(WriteMode.SUSPEND)),
    ({"write": "invalidate"}, Policy(WriteMode.INVALIDATE)),
]


def text(value: bytes) -> bytes:
    return encode_value(STRING, value, None)


class Pair:
    """n1 is the leader and async, n2 is sync; both serve HTTP. Reads time out quickly."""

    def __init__(self, folder: Path) -> None:
        self.servers = HttpServers(folder)
        self.cluster = self.servers.cluster = ModesCluster(folder, timeouts=Timeouts(read_ms=200))
        self.leader: HttpClient
        self.follower: HttpClient

    async def start(self) -> None:
        await self.cluster.set_up(Policy(), ASYNC, SYNC)
        self.leader, self.follower = [await self.servers.open(it) for it in self.cluster.nodes.values()]
        await self.cluster.n1.write(b"k", text(b"old"))
        await self.cluster.caught_up()

    @property
    def membership(self) -> Membership:
        return self.cluster.n1.node.membership


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.start()
    yield pair
    await pair.servers.close()


async def get(client: HttpClient, level: str = "", key: str = "k") -> tuple[int, Any]:
    return await client.ask("GET", f"/keys/{key}", params={"level": level} if level else {})


def token_of(running: RunningNode) -> str:
    state = running.machine.state
    return f"{state.timeline.hex()}:{state.offset}"


async def test_a_key_is_answered_at_each_level_by_each_node(pair: Pair) -> None:
    token = token_of(pair.cluster.n1)
    for client in (pair.leader, pair.follower):
        for level in ("", "eventual", "linearizable", "bounded 500", "bounded 500 10", f"session {token}"):
            status, answer = await get(client, level)
            assert status == 200
            assert answer.pop("token").startswith(token.partition(":")[0])
            assert answer == {"key": "k", "type": "string", "value": "old", "level": level or "default"}


async def test_a_missing_key_is_not_found_and_the_answer_has_a_token(pair: Pair) -> None:
    for client in (pair.leader, pair.follower):
        for level in ("", "linearizable"):
            status, answer = await get(client, level, key="none")
            assert (status, answer["error"], answer["level"]) == (
                404,
                "the key none does not exist",
                level or "default",
            )
            assert (await get(client, f"session {answer['token']}"))[0] == 200
    assert (await pair.leader.ask("GET", "/keys/"))[0] == 404


@pytest.mark.parametrize(
    ("level", "message"),
    [
        ("strong", "unknown read level 'strong': use eventual"),
        ("default", "unknown read level 'default'"),
        ("bounded", "bounded needs a number of milliseconds"),
        ("bounded 0", "bounded 0 can never be met"),
        ("bounded " + "9" * 5000, "at most 1000000000"),
        ("session", "session needs a token"),
        ("session 7", "'7' is not a token"),
        ("eventual 500", "has unexpected words after 'eventual': give one read level"),
        ("linearizable eventual", "has unexpected words after 'linearizable'"),
        ("bounded 1 2 3", "has unexpected words after 'bounded 1 2'"),
    ],
    ids=lambda text: text[:20],
)
async def test_an_invalid_level_is_refused(pair: Pair, level: str, message: str) -> None:
    status, answer = await get(pair.follower, level)
    assert status == 400
    assert message in answer["error"]


async def test_a_read_whose_level_cannot_be_met_is_stale(pair: Pair) -> None:
    pair.cluster.stall(pair.cluster.n2)
    await pair.cluster.n1.write(b"k", text(b"new"))
    for level in ("linearizable", "bounded 1", f"session {token_of(pair.cluster.n1)}"):
        status, answer = await get(pair.follower, level)
        assert (status, "cannot be answered here within 200 ms" in answer["error"]) == (503, True)
    assert (await get(pair.follower))[1]["value"] == "old"
    status, answer = await get(pair.follower, f"session {'0' * 32}:1")
    assert (status, "the token is of timeline" in answer["error"]) == (503, True)
    pair.cluster.wake(pair.cluster.n2)
    assert (await get(pair.follower, "linearizable"))[1]["value"] == "new"


async def test_a_mode_is_requested_at_the_leader_and_changed_by_a_record(pair: Pair) -> None:
    for mode in ("async", "snapshotter", "sync"):
        assert await pair.leader.ask("PUT", "/members/n2/mode", json={"mode": mode}) == (202, {"accepted": "n2"})
        await until(lambda mode=mode: pair.cluster.modes == [ASYNC, Mode(mode)])  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/members/n2/mode", b"{", "not valid JSON"),
        ("/members/n2/mode", b'"sync"', "not a JSON object"),
        ("/members/n2/mode", b"{}", "mode is None, but must be one of async, sync, snapshotter"),
        ("/members/n2/mode", b'{"mode": "strong"}', "mode is 'strong', but must be one of async, sync, snapshotter"),
        ("/members/n2/mode", b'{"mode": "joining"}', "mode is 'joining', but must be one of"),
        ("/members/n2/mode", b'{"mode": ["sync"]}', "must be one of async, sync, snapshotter"),
        ("/members/n9/mode", b'{"mode": "sync"}', "n9 is not a member"),
        ("/members/n1/mode", b'{"mode": "snapshotter"}', "n1 is the leader, and a snapshotter cannot be leader"),
        ("/policy", b"{", "not valid JSON"),
        ("/policy", b"[" * 20_000, "not valid JSON"),
        ("/policy", b"[]", "not a JSON object"),
        ("/policy", b"{}", "write is None, but must be one of async, sync, suspend, invalidate"),
        ("/policy", b'{"write": "SYNC"}', "write is 'SYNC', but must be one of"),
        (
            "/policy",
            b'{"write": "sync", "wait_for": "most"}',
            "wait_for is 'most', but must be one of all, quorum",
        ),
        ("/policy", b'{"write": "sync", "wait_for": null}', "wait_for is None"),
        ("/policy", b'{"write": "sync", "wait_for": "quorum", "quorum": "1"}', "quorum must be an integer"),
        ("/policy", b'{"write": "sync", "wait_for": "quorum", "quorum": 1.5}', "quorum must be an integer"),
        ("/policy", b'{"write": "sync", "wait_for": "quorum", "quorum": true}', "quorum must be an integer"),
        ("/policy", b'{"write": "sync", "wait_for": "quorum"}', "a quorum of 0"),
        (
            "/policy",
            b'{"write": "sync", "wait_for": "quorum", "quorum": 2}',
            "a quorum of 2 needs 2 sync members, and there is 1",
        ),
        ("/policy", b'{"write": "sync", "wait_for": "named", "named": "n2"}', "named a list of node ids"),
        ("/policy", b'{"write": "sync", "wait_for": "named", "named": [2]}', "named a list of node ids"),
        ("/policy", b'{"write": "sync", "wait_for": "named", "named": []}', "the policy names no sync member"),
        ("/policy", b'{"write": "sync", "wait_for": "named", "named": ["n1"]}', "not a sync member: n1"),
        ("/policy", b'{"write": "suspend", "wait_for": "quorum", "quorum": 1}', "wait for all sync members"),
    ],
)
async def test_an_invalid_mode_or_policy_is_refused(pair: Pair, path: str, body: bytes, message: str) -> None:
    before = pair.cluster.bodies_of(Membership)
    status, answer = await pair.leader.ask("PUT", path, data=body)
    assert status == 400
    assert message in answer["error"]
    await pair.cluster.n1.write(b"k", None)
    assert pair.cluster.bodies_of(Membership) == before


async def test_every_policy_can_be_set(pair: Pair) -> None:
    for body, policy in POLICIES:
        assert await pair.leader.ask("PUT", "/policy", json=body) == (202, {"accepted": policy.write})
        await until(lambda policy=policy: pair.membership.policy == policy)  # type: ignore[misc]
        status = (await pair.leader.ask("GET", "/status"))[1]
        assert status["policy"] == {"wait_for": "all", "quorum": 0, "named": [], "replicate": "row", **body}


async def test_the_last_sync_member_cannot_be_removed_while_writes_wait_for_it(pair: Pair) -> None:
    await pair.leader.ask("PUT", "/policy", json={"write": "sync"})
    await until(lambda: pair.membership.policy == ALL)
    for method, path, body in (("DELETE", "/members/n2", {}), ("PUT", "/members/n2/mode", {"mode": "async"})):
        status, answer = await pair.leader.ask(method, path, json=body)
        assert (status, "there would be none" in answer["error"]) == (400, True)


async def test_a_follower_answers_with_the_address_of_the_leader(pair: Pair) -> None:
    for path, body in (("/members/n2/mode", {"mode": "async"}), ("/policy", {"write": "sync"})):
        status, answer = await pair.follower.ask("PUT", path, json=body)
        assert (status, answer["leader"]) == (409, "n1:2")
    assert pair.membership.policy == Policy() and pair.cluster.modes == [ASYNC, SYNC]


async def test_keys_modes_and_policies_need_the_password(pair: Pair) -> None:
    client = await pair.servers.open(pair.cluster.n1, PASSWORD)
    right = {"Authorization": f"Bearer {PASSWORD}"}
    for method, path, body, done in (
        ("PUT", "/members/n2/mode", {"mode": "async"}, 202),
        ("PUT", "/policy", {"write": "async"}, 202),
        ("GET", "/keys/k", {}, 200),
    ):
        status, answer = await client.ask(method, path, json=body)
        assert (status, "value" in answer, "Bearer" in answer["error"]) == (401, False, True)
        assert (await client.ask(method, path, json=body, headers=right))[0] == done


async def test_a_snapshotter_refuses_reads(pair: Pair) -> None:
    await pair.leader.ask("PUT", "/members/n2/mode", json={"mode": "snapshotter"})
    await until(lambda: pair.cluster.n2.node.membership.members[1].mode is Mode.SNAPSHOTTER)
    status, answer = await get(pair.follower)
    assert (status, answer["error"]) == (400, "n2 is a snapshotter, which serves no clients: ask another node")


async def test_a_member_that_registers_again_keeps_a_mode_change_in_flight(pair: Pair) -> None:
    await pair.leader.ask("PUT", "/policy", json={"write": "sync"})
    await until(lambda: pair.membership.policy == ALL)
    pair.cluster.acks.hold("n2")  # from now on no write is confirmed, so the leader applies nothing
    await pair.leader.ask("PUT", "/members/n1/mode", json={"mode": "sync"})
    moved = {"node": "n1", "resp": "n1:1", "http": "n1:2", "priority": 5}
    assert (await pair.leader.ask("PUT", "/members", json=moved))[0] == 202
    pair.cluster.acks.let("n2")
    await until(lambda: pair.membership.members[0].priority == 5)
    assert pair.cluster.modes == [SYNC, SYNC]
