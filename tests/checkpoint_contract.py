"""What every store of checkpoints does. Subclasses have the fixture `checkpoints`."""

from __future__ import annotations

import pytest

from replicator.errors import BadRequest, ConfigError
from replicator.stream import Checkpoints, StreamPosition


def at(*offsets: int, topic_id: str = "topic id") -> StreamPosition:
    return StreamPosition(topic_id, offsets)


class CheckpointContract:
    async def test_the_position_that_was_saved_last_is_loaded(self, checkpoints: Checkpoints) -> None:
        assert await checkpoints.load("search") is None
        await checkpoints.save("search", at(5, 7))
        await checkpoints.save("search", at(6, 7))
        assert await checkpoints.load("search") == at(6, 7)

    async def test_the_first_position_may_be_saved_without_loading(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        assert await checkpoints.load("search") == at(5)

    async def test_each_consumer_has_its_own(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        await checkpoints.save("cache", at(3))
        assert await checkpoints.load("search") == at(5)
        assert await checkpoints.load("cache") == at(3)

    async def test_a_consumer_that_commits_backwards_is_refused(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5, 7))
        await checkpoints.save("search", at(5, 7))  # the same again is not backwards
        with pytest.raises(BadRequest, match=r"search commits backwards: its checkpoint is at 0:5, 1:7.*0:9, 1:6"):
            await checkpoints.save("search", at(9, 6))
        assert await checkpoints.load("search") == at(5, 7)

    async def test_a_position_of_another_stream_is_refused(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        for other in (at(9, topic_id="another"), at(9, 9)):
            with pytest.raises(BadRequest, match="the checkpoint of search is of another change stream"):
                await checkpoints.save("search", other)
        assert await checkpoints.load("search") == at(5)

    async def test_a_reset_may_go_back_and_to_another_stream(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        await checkpoints.save("search", at(2), reset=True)
        assert await checkpoints.load("search") == at(2)
        await checkpoints.save("search", at(1, 1, topic_id="another"), reset=True)
        assert await checkpoints.load("search") == at(1, 1, topic_id="another")

    @pytest.mark.parametrize("name", ["", "../search", "a b", "x" * 101])
    async def test_names_are_checked(self, checkpoints: Checkpoints, name: str) -> None:
        for attempt in (checkpoints.load(name), checkpoints.save(name, at(1))):
            with pytest.raises(ConfigError, match="invalid name of a consumer"):
                await attempt
