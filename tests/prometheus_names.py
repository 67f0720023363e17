"""Which metrics there are, and which ones an expression of Prometheus reads."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric

from replicator.stream.sinks.metrics import SinkMetrics
from replicator.stream.sinks.report import SinkReport, SinkState
from tools.metrics_doc import described

_NAME = re.compile(r"\b(?:(?:replicator|process)_\w+|up|ALERTS)\b")
_LABELS_AND_TEXTS = re.compile(r"\{[^}]*\}|\"[^\"]*\"")


def sample_names(metrics: list[Metric]) -> set[str]:
    """Those of the samples: with `_total`, `_bucket` and so on."""
    return {sample.name for metric in metrics for sample in metric.samples}


def _process() -> list[Metric]:
    return list(ProcessCollector(registry=CollectorRegistry()).collect())


def _sink() -> list[Metric]:
    return list(SinkMetrics("a", lambda: SinkReport(SinkState.RUNNING, None)).collect())


EXPORTED = sample_names([*described(), *_sink(), *_process()]) | {"up", "ALERTS"}
"""By nodes, sinks and Prometheus itself."""


def names_in(expression: str) -> set[str]:
    return set(_NAME.findall(_LABELS_AND_TEXTS.sub("", expression)))
