"""Writes the reference of all commands into docs/cli.md, between its markers.

python -m tools.cli_doc
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import typer

from replicator.cli.main import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
_PART = re.compile(r"(<!-- generated: commands -->\n).*?(<!-- end -->)", re.DOTALL)
_VALUES = {int: "N", Path: "PATH"}


def commands() -> list[tuple[str, Any]]:
    """The full name of each command that can be run, and its description by typer."""
    return list(_walk("replicator", typer.main.get_command(app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if children is None or command.invoke_without_command:
        yield name, command
    for child_name, child in (children or {}).items():
        yield from _walk(f"{name} {child_name}", child)


def reference() -> str:
    return "\n".join(_section(name, command) for name, command in sorted(commands(), key=lambda it: it[0]))


def _section(name: str, command: Any) -> str:
    text, *examples = re.split(r"^\s*Example: ", command.help, flags=re.MULTILINE)
    paragraphs = [" ".join(it.split()) for it in text.strip().split("\n\n")]
    annotations = get_type_hints(command.callback, include_extras=True)
    rows = [_row(it, *get_args(annotations[it.name])) for it in command.params if not getattr(it, "hidden", False)]
    table = ["| option | meaning | default |", "| --- | --- | --- |", *rows]
    return "\n".join(
        [f"## {name}", "", "\n\n".join(paragraphs), "", *(f"    {it.strip()}" for it in examples), "", *table, ""]
    )


def _row(parameter: Any, hint: Any, info: Any) -> str:
    kind = _kind(hint)
    value = parameter.metavar or _value(kind, parameter.name)
    option = " / ".join((*parameter.opts, *parameter.secondary_opts))
    if parameter.param_type_name == "argument":
        option = value
    elif kind is not bool:
        option = f"{option} {value}"
    doc = parameter.help.removesuffix(".") + _limits(info)
    if parameter.envvar:
        doc += f" Environment variable: `{parameter.envvar}`."
    return f"| {_code(option)} | {doc} | {_default(parameter)} |"


def _code(text: str) -> str:
    """In a table, no other form of a bar is shown as a bar by both GitHub and mkdocs."""
    return f"<code>{text.replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _kind(hint: Any) -> type:
    """That of the value, without None."""
    kind: type = next(it for it in get_args(hint) if it is not type(None)) if isinstance(hint, UnionType) else hint
    return kind


def _value(kind: type, name: str) -> str:
    if issubclass(kind, Enum):
        return "|".join(it.value for it in kind)
    return _VALUES.get(kind, name.upper())


def _limits(info: Any) -> str:
    """The end of a sentence, such as ` (1 to 100).`"""
    if info.min is None:
        return "."
    return f" (at least {info.min})." if info.max is None else f" ({info.min} to {info.max})."


def _default(parameter: Any) -> str:
    default = parameter.default
    if parameter.required:
        return "required"
    if isinstance(default, bool) or not parameter.show_default or default in (None, ""):
        return ""
    return f"`{default.value if isinstance(default, Enum) else default}`"


def regenerated(page: str) -> str:
    return _PART.sub(lambda found: f"{found[1]}{reference()}\n{found[2]}", page)


if __name__ == "__main__":
    PAGE.write_text(regenerated(PAGE.read_text()))
