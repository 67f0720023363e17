"""The roles of brokers: the active controller, the leader of a partition, its replicas that are in sync."""

from __future__ import annotations

from typing import Any

from aiokafka.errors import KafkaError
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.log.kafka.admin import KafkaAdmin
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.failure_text import describe_code
from replicator.log.kafka.partition_leader import LeaderLookup
from replicator.log.kafka.requests import PARTITION

METADATA_TOPIC = "__cluster_metadata"
TIMEOUT_MS = 2_000

_REPLICAS = CompactArray(("replica_id", Int32), ("log_end_offset", Int64), ("tags", TaggedFields))


class DescribeQuorumResponseV0(Response):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 0
    SCHEMA = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("high_watermark", Int64),
                        ("current_voters", _REPLICAS),
                        ("observers", _REPLICAS),
                        ("tags", TaggedFields),
                    ),
                ),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeQuorumRequestV0(RequestStruct):  # type: ignore[misc]
    API_KEY = 55
    API_VERSION = 0
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = DescribeQuorumResponseV0
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(("partition", Int32), ("tags", TaggedFields))),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class DescribeQuorumRequest(Request[DescribeQuorumRequestV0]):  # type: ignore[misc]
    API_KEY = 55

    def build(self, request_struct_class: type[DescribeQuorumRequestV0]) -> DescribeQuorumRequestV0:
        return request_struct_class([(METADATA_TOPIC, [(0, {})], {})], {})


async def partition_leader(bootstrap: str, topic: str) -> int:
    """The id of the broker that is the leader of the partition. Raises `BrokerUnavailable`."""
    return (await LeaderLookup(Brokers(bootstrap), topic).find()).node


def in_sync_replicas(bootstrap: str, topic: str) -> int:
    """How many brokers have all acknowledged entries of the topic. Blocks. Raises `BrokerUnavailable`."""
    description = KafkaAdmin(bootstrap, None).describe_or_none(topic)
    return 0 if description is None else len(description.partitions[PARTITION].isr)


async def active_controller(bootstrap: str) -> int:
    """Its node id. Raises `BrokerUnavailable`."""
    brokers = Brokers(bootstrap)
    why = ""
    for address in map(Address.parse, bootstrap.split(",")):
        try:
            connection = await brokers.connect(address, TIMEOUT_MS)
            try:
                response: Any = await connection.send(DescribeQuorumRequest())
            finally:
                connection.close()
        except (KafkaError, OSError, TimeoutError) as error:
            why = str(error)
            continue
        [(_, [(_, code, leader, *_)], _)] = response.topics
        if not code:
            return int(leader)
        why = describe_code(code)
    raise BrokerUnavailable(f"no broker at {bootstrap} knows the active controller: {why}")
