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
        await checkpoints.save("search", at(6, 7), after=at(5, 7))
        assert await checkpoints.load("search") == at(6, 7)

    async def test_each_consumer_has_its_own(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        await checkpoints.save("cache", at(3))
        assert await checkpoints.load("search") == at(5)
        assert await checkpoints.load("cache") == at(3)

    async def test_a_process_is_refused_if_another_one_has_handled_the_same_changes(
        self, checkpoints: Checkpoints
    ) -> None:
        await checkpoints.save("search", at(100))
        await checkpoints.save("search", at(600), after=at(100))
        for position in (at(300), at(600), at(1100)):
            with pytest.raises(
                BadRequest, match=r"another process of consumer search has gone on.* is 0:600 instead of 0:100"
            ):
                await checkpoints.save("search", position, after=at(100))
        assert await checkpoints.load("search") == at(600)
        await checkpoints.save("search", at(1100), after=at(600))

    async def test_a_process_that_began_without_a_position_is_refused_once_there_is_one(
        self, checkpoints: Checkpoints
    ) -> None:
        await checkpoints.save("search", at(5))
        with pytest.raises(BadRequest, match=r"another process .* is 0:5 instead of none"):
            await checkpoints.save("search", at(5))
        assert await checkpoints.load("search") == at(5)

    async def test_a_process_whose_position_was_deleted_is_refused(self, checkpoints: Checkpoints) -> None:
        with pytest.raises(BadRequest, match=r"another process .* is none instead of 0:5"):
            await checkpoints.save("search", at(6), after=at(5))
        assert await checkpoints.load("search") is None

    async def test_a_consumer_that_commits_backwards_is_refused(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5, 7))
        with pytest.raises(BadRequest, match=r"search commits backwards: its checkpoint is 0:5, 1:7.*0:9, 1:6"):
            await checkpoints.save("search", at(9, 6), after=at(5, 7))
        assert await checkpoints.load("search") == at(5, 7)

    async def test_a_position_of_another_stream_is_refused(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        for other in (at(9, topic_id="another"), at(9, 9)):
            for after in (at(5), None, other):
                with pytest.raises(BadRequest, match="the checkpoint of search is of another change stream"):
                    await checkpoints.save("search", other, after=after)
        assert await checkpoints.load("search") == at(5)

    async def test_a_reset_may_go_back_and_to_another_stream(self, checkpoints: Checkpoints) -> None:
        await checkpoints.save("search", at(5))
        await checkpoints.save("search", at(2), reset=True)
        assert await checkpoints.load("search") == at(2)
        await checkpoints.save("search", at(1, 1, topic_id="another"), reset=True)
        assert await checkpoints.load("search") == at(1, 1, topic_id="another")
        await checkpoints.save("new", at(7), reset=True)
        assert await checkpoints.load("new") == at(7)

    @pytest.mark.parametrize("name", ["", "../search", "a b", "x" * 101])
    async def test_names_are_checked(self, checkpoints: Checkpoints, name: str) -> None:
        for attempt in (checkpoints.load(name), checkpoints.save(name, at(1))):
            with pytest.raises(ConfigError, match="invalid name of a consumer"):
                await attempt
