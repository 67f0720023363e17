"""docs/cli.md describes every command and every option."""

from __future__ import annotations

import re

from tools.cli_doc import PAGE, commands, reference, regenerated


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert page.count("<!-- generated: commands -->\n") == 1
    assert page == regenerated(page), "docs/cli.md is stale: run `python -m tools.cli_doc`"


def test_the_overview_names_the_commands_that_exist() -> None:
    overview = PAGE.read_text().partition("<!-- generated")[0]
    named = re.findall(r"^\| `(replicator [a-z -]+)` \|", overview, re.MULTILINE)
    assert sorted(named) == sorted(name for name, _ in commands())


def test_every_command_has_its_options_and_an_example() -> None:
    sections = dict(re.findall(r"^## (replicator[^\n]*)\n(.*?)(?=^## |\Z)", reference(), re.MULTILINE | re.DOTALL))
    assert sections.keys() == {name for name, _ in commands()}
    for name, command in commands():
        assert f"\n    {name}" in sections[name], f"{name} has no example"
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert re.search(rf"^\| (?:`|<code>){parameter.opts[0]}\b", sections[name], re.MULTILINE)


def test_rows_show_values_limits_defaults_and_variables() -> None:
    rows = reference().splitlines()
    base_port = "n1's port for Redis clients, by default 7001; its HTTP port is 1000 higher (1 to 60000)."
    folder = "The folder of the cluster. Environment variable: `REPLICATOR_DIR`."
    assert f"| `--base-port N` | {base_port} |  |" in rows
    assert f"| `--dir PATH` | {folder} | `replicator-data` |" in rows
    assert "| `ID` | A node of this cluster. | required |" in rows
    assert any(
        row.startswith("| <code>--write async&#124;sync&#124;suspend&#124;invalidate</code> | When ") for row in rows
    )
    assert any(row.startswith("| `--loss / --no-loss` | ") for row in rows)


def test_several_examples_are_lines_for_the_shell() -> None:
    rows = reference().splitlines()
    first = rows.index("    replicator stream tail --follow")
    assert rows[first + 1].startswith("    replicator stream tail --from 10m ")
