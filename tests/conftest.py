from tests.kafka_fixture import kafka, kafka_cluster, local_broker

__all__ = ["kafka", "kafka_cluster", "local_broker"]
