from __future__ import annotations

import pytest

from tests.client_fixture import connect
from tests.kafka_fixture import brokers, kafka, kafka_cluster, local_broker
from tests.redis_fixture import client, serve, server

__all__ = ["brokers", "client", "connect", "kafka", "kafka_cluster", "local_broker", "serve", "server"]

BROKEN_RULE = "broken rule"
"""The property of a test that breaks a rule on purpose: a row of the table below."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the rules that were broken on purpose, and how the simulator noticed."""
    reports = [it for outcome in ("passed", "failed") for it in terminalreporter.getreports(outcome)]
    rows = [value for report in reports for name, value in report.user_properties if name == BROKEN_RULE]
    if rows:
        terminalreporter.write_sep("-", "rules broken on purpose, and how the simulator noticed")
        for row in rows:
            terminalreporter.write_line(row)
