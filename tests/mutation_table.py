"""After the tests, a table of the rules that were broken on purpose: which seed detected each, and by what."""

from __future__ import annotations

import pytest

BROKEN_RULE = "broken rule"
"""A property of a test: the rule, the seed that detects that it is broken, and the first problem that was found."""


PROBLEM_CHARACTERS = 80


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = [
        value
        for report in terminalreporter.stats.get("passed", [])
        for name, value in report.user_properties
        if name == BROKEN_RULE
    ]
    if not rows:
        return
    width = max(len(rule) for rule, _, _ in rows)
    terminalreporter.section("rules broken on purpose, and what detected each")
    for rule, seed, problem in rows:
        terminalreporter.write_line(f"{rule:{width}}  seed {seed:<5} {problem[:PROBLEM_CHARACTERS]}")
