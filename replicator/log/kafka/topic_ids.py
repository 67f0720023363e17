"""The ids of topics, for programs and threads without an event loop of their own."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from replicator.address import Address
from replicator.daemon_thread import start_daemon_thread
from replicator.log.kafka.client_id import DEFAULT_CLIENT_ID
from replicator.log.kafka.security import KafkaSecurity


class TopicIds:
    """May be asked for as long as Kafka is down, unlike librdkafka: see `Brokers`."""

    def __init__(
        self, bootstrap: str, security: KafkaSecurity | None = None, client_id: str = DEFAULT_CLIENT_ID
    ) -> None:
        self._access = bootstrap, security, client_id
        self._advertised: frozenset[Address] = frozenset()

    def ask(self, topic: str) -> Future[str | None]:
        """None if there is no such topic. The result may be `BrokerUnavailable` or `ConfigError`."""
        return start_daemon_thread(lambda: asyncio.run(self._topic_id(topic)))

    def get(self, topic: str) -> str | None:
        """As `ask`, but blocks. Raises `BrokerUnavailable`, `ConfigError`."""
        return self.ask(topic).result()

    async def _topic_id(self, topic: str) -> str | None:
        from replicator.log.kafka.brokers import Brokers  # a publisher of the change stream does not need aiokafka

        brokers = Brokers(*self._access)  # its lookups of hosts belong to this event loop
        brokers.advertised = self._advertised
        try:
            return await brokers.topic_id(topic)
        finally:
            self._advertised = brokers.advertised
