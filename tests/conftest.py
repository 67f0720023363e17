from tests.client_fixture import connect
from tests.kafka_fixture import kafka, kafka_cluster, local_broker
from tests.redis_fixture import client, serve, server

__all__ = ["client", "connect", "kafka", "kafka_cluster", "local_broker", "serve", "server"]
