"""Every command `replicator` in the documentation can be parsed, and every Python example compiles."""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from replicator.cli.main import app
from tests.doc_pages import DOCS, PAGES, blocks, commands, inline_code

ROOT_COMMAND: Any = typer.main.get_command(app)
_SEPARATORS = {"|", ">", "||", "&&", ";", "&", "do", "then", "until", "while", "if", "!"}


def invocations(line: str) -> list[list[str]]:
    """The arguments of each `replicator` in a line for the shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            while words and re.fullmatch(r"\w+=.*", words[0]):
                words.pop(0)
            if words[:1] == ["replicator"]:
                found.append(words[1:])
            words = []
        else:
            words.append(word)
    return found


def resolve(arguments: list[str]) -> tuple[Any, list[str]]:
    """The command that is meant, and its own arguments. Raises `ValueError` if there is none of this name."""
    command, rest = ROOT_COMMAND, list(arguments)
    while rest and not rest[0].startswith("-") and hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            raise ValueError(f"no such command: {name}")
        command = command.commands[name]
    return command, rest


def parse(arguments: list[str]) -> None:
    """Raises what the command line raises for a command that it does not understand."""
    command, rest = resolve(arguments)
    command.make_context(" ".join(arguments), rest, allow_interspersed_args=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_parsed(page: Path) -> None:
    for block in blocks(page):
        for line in commands(block):
            if re.search(r"\breplicator ", line):
                for arguments in invocations(line):
                    parse(arguments)


def test_what_is_parsed() -> None:
    assert invocations("A=b replicator status --json | grep x && replicator doctor; do replicator demo") == [
        ["status", "--json"],
        ["doctor"],
        ["demo"],
    ]
    assert invocations("replicator status --json > status.json") == [["status", "--json"]]
    assert invocations("redis-cli -p 7001 get replicator") == []
    for wrong in (["status", "--jsn"], ["replica", "promote"], ["cluster", "policy", "--write", "fast"], ["statsu"]):
        with pytest.raises(Exception, match=r"(?i)no such|missing|invalid|'fast' is not"):
            parse(wrong)


def test_most_pages_have_commands() -> None:
    lines = [line for page in PAGES for block in blocks(page) for line in commands(block)]
    assert sum(len(invocations(line)) for line in lines if line.startswith("replicator ")) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_sentences_name_existing_options(page: Path) -> None:
    for code in inline_code(page):
        if code.startswith("replicator "):
            words = re.findall(r"[^\s`]+", code)[1:]
            command, rest = resolve(words)
            known = {option for it in command.params for option in (*it.opts, *it.secondary_opts)} | {"--help", "-h"}
            assert {it.partition("=")[0] for it in rest if it.startswith("-")} <= known, code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_compile(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            examples = doctest.DocTestParser().get_examples(block.text)
            source = "".join(example.source for example in examples) if examples else block.text
            compile(source, page.name, "exec")


def test_every_page_is_in_the_navigation() -> None:
    navigation = re.findall(r": (\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(navigation) == sorted(page.name for page in DOCS.glob("*.md"))
