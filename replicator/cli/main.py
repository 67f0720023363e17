"""The command `replicator`."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from functools import cache
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup
from typer.main import get_group

from replicator import __version__
from replicator.cli.output import print_error
from replicator.config import misspelt, passwords_from_files
from replicator.errors import ReplicatorError
from replicator.protocol import timing

COMMANDS = (
    "broker",
    "chaos",
    "cluster",
    "node",
    "procedure",
    "replica",
    "sink",
    "snapshot",
    "stream",
    "sql",
    "bench",
    "status",
    "verify",
    "doctor",
    "history",
    "demo",
    "simulate",
)
"""Each is a module: with several commands (`app`), or a function of the same name."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a write. The errors of files that the program opens itself say which file it is."""


class _Modules(Mapping[str, Any]):
    """The commands by name. Each is imported when it is used, as all of them take half a second."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _command(name: str) -> Any:
    module = import_module(f"replicator.cli.{name}")
    if hasattr(module, "app"):
        group = get_group(module.app)
        group.name = name
        return group
    single = typer.Typer()
    single.command(name)(getattr(module, name))
    return get_group(single).commands[name]


class _Commands(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = cast(MutableMapping[str, Any], _Modules())

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"replicator {__version__}")
        raise typer.Exit


@app.callback()
def replicator(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A replicated key-value store on a Kafka log. Any Redis client works with it."""
    passwords_from_files(os.environ)  # before the options of commands are read
    for variable, meant in misspelt(os.environ, timing.SETTINGS):
        print_error("Warning:", "bold yellow", f"{variable} is not a setting, and ignored: did you mean {meant}?")


def main() -> None:
    """Print expected errors as one sentence, with exit code 1."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths may have bytes that the terminal's encoding has not
    try:
        app()
    except SystemExit:
        _flush_output()
        raise
    except ReplicatorError as error:
        print_error("Error:", "bold red", str(error))
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            if error.errno in FULL:
                _end_without_output(error)
            raise
        print_error("Error:", "bold red", f"{error.filename} cannot be used ({error.strerror}): choose another path")
        sys.exit(1)


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        _end_without_output(error)


def _end_without_output(error: OSError) -> NoReturn:
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())  # for what is in the buffer still
    if error.errno != errno.EPIPE:  # else the reader has left, and needs no message
        print_error("Error:", "bold red", f"the output cannot be written ({error.strerror})")
    sys.exit(1)
