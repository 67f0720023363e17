"""Output for people (tables, colour, progress) and for programs (`--json`)."""

from __future__ import annotations

import json
import logging
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text


def _console(**settings: Any) -> Console:
    """Prints values as they are, with brackets and colons. What is to be styled is a `Text`."""
    return Console(markup=False, emoji=False, highlight=False, **settings)


console = _console()
errors = _console(stderr=True)
_wide = _console(width=10_000)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str), flush=True)


def print_json_line(value: Any) -> None:
    print(json.dumps(value, default=str), flush=True)


def print_line(text: str | Text) -> None:
    """Print it unbroken, so that it can be copied."""
    console.print(text, soft_wrap=True)


def print_result(text: str, value: Any, *, json: bool) -> None:
    """What a command has done: for people, or for programs."""
    if json:
        print_json(value)
    else:
        print_line(text)


def print_error(label: str, style: str, text: str) -> None:
    """On stderr, such as: "Error: …"."""
    errors.print(Text.assemble((label, style), " ", text), soft_wrap=True)


def print_whole(*parts: RenderableType) -> None:
    """Print tables at their full width and lines unbroken, however narrow the terminal is: nothing is cut off.

    To a file or a pipe, it prints no trailing spaces, and is not buffered.
    """
    with _wide.capture() as captured:
        for part in parts:
            _wide.print(part, soft_wrap=True)
    text = captured.get()
    if not console.is_terminal:
        text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    console.file.write(text)
    console.file.flush()


class ConsoleHandler(logging.Handler):
    """Prints log messages on stderr, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        errors.print(self.format(record), soft_wrap=True)


def verdict(met: bool | None) -> Text:
    """Of a bound. None: not measured."""
    return {None: Text("not measured"), True: Text("met", "green"), False: Text("missed", "red")}[met]


def plain_table(*columns: str) -> Table:
    """Without a frame, so that it can be copied. A narrow terminal breaks values, and never shortens them."""
    headers = (Column(name, overflow="fold") for name in columns)
    return Table(*headers, box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)


def count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def size(size_bytes: int) -> str:
    """Such as 1.5 MiB."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1023.95:  # more is rounded to 1024.0
            break
        value, unit = value / 1024, larger
    return f"{size_bytes} B" if unit == "B" else f"{value:.1f} {unit}"


class _KnownTotal(ProgressColumn):
    """Shows a column only for tasks whose end is known."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return "" if task.total is None else self._column.render(task)


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f}/s")


class _RemainingColumn(ProgressColumn):
    """Estimated from the rate so far."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        remaining = TimeRemainingColumn(compact=True).render(task)
        return Text.assemble("ETA ", remaining)


def progress_bars(*columns: ProgressColumn) -> Progress:
    """Progress bars on stderr, if it is a terminal; they disappear at the end."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *map(_KnownTotal, (MofNCompleteColumn(), _RateColumn(), _RemainingColumn())),
        *columns,
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )


class ConsoleProgress:
    """Draws what operations report (`local.progress`): bars and notices on stderr, results on `results`."""

    def __init__(self, results: Console = console) -> None:
        self._results = results
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> ConsoleProgress:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()

    def step(self, text: str) -> None:
        self.clear()
        self._show("", text, 0, None)

    def bar(self, name: str, text: str, completed: int = 0, total: int | None = None) -> None:
        self._show(name, text, completed, total)

    def done(self, text: str) -> None:
        self.clear()
        self._results.print(text, soft_wrap=True)

    def notice(self, text: str) -> None:
        errors.print(text, soft_wrap=True)

    def _show(self, name: str, text: str, completed: int, total: int | None) -> None:
        if self._bars is None:
            self._bars = progress_bars()
            self._bars.start()
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(text, total=total)
        self._bars.update(self._tasks[name], description=text, completed=completed, total=total)

    def clear(self) -> None:
        """Remove the bars, before something else is printed."""
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
