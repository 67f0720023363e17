"""Prometheus metrics of a running sink, by a small HTTP server of its own thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from replicator.address import Address
from replicator.errors import ConfigError
from replicator.stream.sinks.report import SinkReport, SinkState


class SinkMetrics(Collector):
    def __init__(self, sink: str, latest: Callable[[], SinkReport]) -> None:
        self._sink = sink
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        report = self._latest()
        is_up = report.state is SinkState.RUNNING
        yield self._gauge("replicator_sink_up", "1 while the sink reads changes and writes them.", is_up)
        yield self._gauge(
            "replicator_sink_lag_changes", "Messages in the topic that are not written.", report.lag_messages
        )
        yield self._gauge(
            "replicator_sink_lag_seconds", "Age of the last change written, 0 if it is the last one.", report.lag_s
        )
        written = CounterMetricFamily("replicator_sink_changes", "Changes written.", labels=["sink"])
        written.add_metric([self._sink], report.written)
        yield written
        failures = CounterMetricFamily("replicator_sink_failures", "Failed attempts.", labels=["sink", "of"])
        failures.add_metric([self._sink, "target"], report.target_failures)
        failures.add_metric([self._sink, "kafka"], report.kafka_failures)
        yield failures
        batches = SummaryMetricFamily("replicator_sink_batch_seconds", "Time to write a batch.", labels=["sink"])
        batches.add_metric([self._sink], report.batches, report.write_s)
        yield batches

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        gauge = GaugeMetricFamily(name, text, labels=["sink"])
        gauge.add_metric([self._sink], value)
        return gauge


def serve_metrics(address: Address, metrics: SinkMetrics) -> Callable[[], None]:
    """Returns what stops it. Raises `ConfigError`."""
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"metrics cannot be served at {address} ({error}): choose another address") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
