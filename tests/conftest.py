from tests.kafka_fixture import kafka, kafka_cluster, local_broker
from tests.redis_fixture import client, serve, server

__all__ = ["client", "kafka", "kafka_cluster", "local_broker", "serve", "server"]
