"""The command `replicator`."""

from __future__ import annotations

import errno
import os
import sys
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from replicator import __version__
from replicator.cli import (
    bench,
    broker,
    chaos,
    cluster,
    demo,
    doctor,
    node,
    replica,
    simulate,
    sink,
    snapshot,
    status,
    stream,
)
from replicator.cli.output import print_error
from replicator.config import misspelt
from replicator.errors import ReplicatorError
from replicator.protocol import timing

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Errors of a write. The errors of files that the program opens itself say which file it is."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(broker.app, name="broker")
app.add_typer(chaos.app, name="chaos")
app.add_typer(cluster.app, name="cluster")
app.add_typer(node.app, name="node")
app.add_typer(replica.app, name="replica")
app.add_typer(sink.app, name="sink")
app.add_typer(snapshot.app, name="snapshot")
app.add_typer(stream.app, name="stream")
app.add_typer(bench.app, name="bench")
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)


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
