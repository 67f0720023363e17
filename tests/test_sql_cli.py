"""`replicator sql`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner, Result

from replicator.cli.main import app
from replicator.cli.sql_prompt import SqlCompleter, run_prompt
from replicator.cli.sql_script import is_complete, numbered_statements, statements
from replicator.cli.sql_shell import SqlShell
from replicator.client import dbapi
from replicator.local.folder import ClusterFile, ClusterFolder, NodeEntry
from tests.fake_sql_server import CLUSTER, PASSWORD, FakeSqlCluster
from tests.sql_cluster_fixture import SqlCluster

ROOT = Path(__file__).parents[1]
TABLE = "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT UNIQUE, data BLOB);"
Run = Callable[..., Result]


@pytest.fixture
def run(sql_cluster: SqlCluster) -> Run:
    def run(*words: str, input: str = "") -> Result:
        options = ["--node", sql_cluster.nodes[1], "--password", PASSWORD]
        return CliRunner().invoke(app, ["sql", *options, *words], input=input)

    return run


def lines(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


class TestScripts:
    def test_statements_are_split(self) -> None:
        trigger = "CREATE TRIGGER t AFTER DELETE ON a BEGIN\n DELETE FROM b; END;"
        text = f"select 1; select ';' -- ;\n, 2;\n\n.tables\n{trigger}\nend"
        assert list(statements(text.splitlines(keepends=True))) == [
            "select 1;",
            "select ';' -- ;\n, 2;",
            ".tables",
            trigger,
            "end",
        ]
        assert list(statements(["\n", "  \n"])) == []
        assert [line for line, _ in numbered_statements(text.splitlines(keepends=True))] == [1, 1, 4, 5, 7]

    def test_when_enter_executes(self) -> None:
        for text in ("", "select 1;", ".tables", "exit", "Quit;"):
            assert is_complete(text)
        for text in ("select 1", "select ';", "exit 1"):
            assert not is_complete(text)


class TestOutput:
    def test_tables(self, run: Run) -> None:
        insert = "INSERT INTO users VALUES (7, 'Ada', x'00ff'), (10, NULL, NULL)"
        assert lines(run("-c", TABLE, "-c", insert)) == ["OK", "2 rows changed"]
        assert lines(run("-c", "SELECT *, 0.5 AS half FROM users")) == [
            "id name data    half",
            "────────────────────",
            " 7 Ada  x'00ff'  0.5",
            "10 NULL NULL     0.5",
        ]

    def test_json(self, run: Run) -> None:
        script = f"{TABLE} INSERT INTO users VALUES (7, 'é', x'00ff'); SELECT * FROM users; .tables"
        assert [json.loads(line) for line in lines(run("--json", input=script.replace("; ", ";\n")))] == [
            {"changes": 0, "last_id": None},
            {"changes": 1, "last_id": 7},
            {"id": 7, "name": "é", "data": "00ff"},
            {"name": "users"},
        ]

    def test_json_of_what_json_has_not(self, run: Run) -> None:
        [line] = lines(run("--json", "-c", "SELECT 1 AS a, 2 AS a, 1e999 AS b, -1e999 AS c, 3 AS 'a:1'"))
        assert json.loads(line, parse_constant=pytest.fail) == {
            "a": 1,
            "a:1": 2,
            "b": "Infinity",
            "c": "-Infinity",
            "a:1:1": 3,
        }

    def test_a_terminal_is_not_sent_control_characters(self, run: Run) -> None:
        assert "\\x1b[2J" in run("-c", "SELECT char(27) || '[2J' AS a").stdout

    def test_a_schema_can_be_executed_again(self, run: Run) -> None:
        table = "CREATE TABLE t (\n\ta INTEGER PRIMARY KEY,\n\tb TEXT DEFAULT '\x1b'\n);"
        assert run(input=table).stdout == "OK\n"
        assert run("-c", ".schema t").stdout == f"{table}\n"

    def test_commands(self, run: Run) -> None:
        script = f"{TABLE}\nCREATE TABLE t (a);\nCREATE INDEX i ON t (a);\n.tables\n.schema t\n.quit\nSELECT 1;"
        assert lines(run(input=script)) == [
            "OK",
            "OK",
            "OK",
            "t",
            "users",
            "CREATE TABLE t (a);",
            "CREATE INDEX i ON t (a);",
        ]
        assert TABLE in lines(run("-c", ".schema"))
        assert any(".schema" in line for line in lines(run("-c", ".help")))
        assert lines(run("-c", ".schema USERS")) == [TABLE]
        unknown = run("-c", ".schema nope")
        assert (unknown.exit_code, str(unknown.exception)) == (1, "no such table or view: nope")

    def test_words_that_are_no_options(self, run: Run) -> None:
        for words, text in [(["SELECT 1"], "replicator sql -c 'SELECT 1'"), (["-c", " "], "the statement is empty")]:
            wrong = run(*words)
            assert wrong.exit_code == 2 and text in wrong.output

    def test_comments_only(self, run: Run) -> None:
        assert lines(run(input="-- nothing\n/* here; */ ;\n")) == []


class TestExecution:
    def test_transactions(self, run: Run) -> None:
        insert = "INSERT INTO users (name) VALUES ('Ada');"
        lines(run("-c", TABLE))
        assert (
            lines(run(input=f"BEGIN;\n{insert}\nROLLBACK;\nBEGIN;\nSELECT count(*) AS n FROM users;\nCOMMIT;"))[-2]
            == "0"
        )
        left = run(input=f"BEGIN; {insert}")
        assert (left.exit_code, str(left.exception)) == (1, "the transaction was rolled back, as there is no COMMIT")
        assert lines(run("-c", "SELECT count(*) AS n FROM users"))[-1] == "0"

    def test_the_statements_after_an_error_are_not_executed(self, run: Run) -> None:
        failed = run("-c", TABLE, "-c", "SELECT * FROM nowhere", "-c", "DROP TABLE users")
        assert (failed.exit_code, str(failed.exception)) == (1, "no such table: nowhere")
        assert lines(run("-c", ".tables")) == ["users"]

    def test_an_error_in_a_script_names_its_line(self, run: Run) -> None:
        failed = run(input=f"{TABLE}\n\n\nSELECT *\nFROM nowhere;\nDROP TABLE users;")
        assert str(failed.exception) == "line 4: no such table: nowhere, in: SELECT * FROM nowhere;"
        failed = run(input="\n.dump\n")
        assert str(failed.exception) == "line 2: unknown command .dump: .help lists the commands, in: .dump"

    def test_levels(self, run: Run, fake: FakeSqlCluster) -> None:
        for level in ("eventual", "bounded 100", "linearizable"):
            lines(run("-c", "SELECT 1", "--level", level))
            assert fake.seen[-1].level == level
        wrong = run("-c", "SELECT 1", "--level", "fresh")
        assert wrong.exit_code == 2 and "unknown read level 'fresh'" in wrong.output
        assert "TOKEN" not in wrong.output  # as it takes none here

    def test_an_unknown_command(self, run: Run) -> None:
        unknown = run("-c", ".dump")
        assert (unknown.exit_code, str(unknown.exception)) == (1, "unknown command .dump: .help lists the commands")

    def test_the_nodes_of_a_folder(self, sql_cluster: SqlCluster, tmp_path: Path) -> None:
        folder = ClusterFolder(tmp_path / "data")
        ports = [int(node.rpartition(":")[2]) for node in sql_cluster.nodes]
        nodes = tuple(NodeEntry(f"n{index}", port, port + 1000, 0) for index, port in enumerate(ports, 1))
        folder.dir.mkdir()
        folder.save(ClusterFile(CLUSTER, "127.0.0.1:1", own_broker=False, base_port=1, nodes=nodes, has_password=True))
        words = ["sql", "--dir", str(folder.dir), "--password", PASSWORD, "-c", "SELECT 1 AS one"]
        assert lines(CliRunner().invoke(app, words))[-1] == "  1"

    def test_errors_as_a_program_prints_them(self, sql_cluster: SqlCluster, tmp_path: Path) -> None:
        def run(*words: str) -> tuple[int, str]:
            ended = subprocess.run(
                [sys.executable, "-m", "replicator", "sql", *words],
                capture_output=True,
                text=True,
                timeout=60,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": str(ROOT), "REPLICATOR_NODE_PASSWORD": PASSWORD},
            )
            assert ended.stdout == "" and PASSWORD not in ended.stderr
            return ended.returncode, ended.stderr

        node = ("--node", sql_cluster.nodes[0])
        assert run(*node, "-c", "SELECT FROM t") == (1, 'Error: near "FROM": syntax error\n')
        code, text = run("--node", "127.0.0.1:1", "-c", "SELECT 1")
        assert code == 1 and text.startswith("Error: no node answers (127.0.0.1:1: ")
        code, text = run("-c", "SELECT 1")
        assert code == 1 and text.startswith("Error: there is no cluster in ")


class TestPrompt:
    @pytest.fixture
    def shell(self, dsn: str) -> Iterator[SqlShell]:
        connection = dbapi.connect(dsn, autocommit=True)
        connection.execute(TABLE)
        yield SqlShell(connection, json=False)
        connection.close()

    @contextmanager
    def typed(self, keys: str) -> Iterator[None]:
        with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
            pipe.send_text(keys)
            yield

    def test_statements_of_several_lines(
        self, shell: SqlShell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        history = tmp_path / "state" / "history"
        with self.typed("SELECT 1 +\r1 AS two;\rSELECT FROM t;\r\r.quit\rSELECT 3;\r"):
            run_prompt(shell, history)
        printed = capfd.readouterr()
        assert printed.out.splitlines()[0::2] == ["two", "  2"]
        assert 'Error: near "FROM": syntax error' in printed.err
        assert "+1 AS two;" in history.read_text()
        assert history.stat().st_mode & 0o077 == 0

    def test_ctrl_c_discards_the_line_and_ctrl_d_ends(self, shell: SqlShell, tmp_path: Path) -> None:
        with self.typed("DROP TABLE\x03.tables\r\x04"):
            run_prompt(shell, tmp_path / "history")
        assert shell.tables() == ["users"]

    @pytest.mark.parametrize("word", ["exit", "quit;", ".exit", ".quit"])
    def test_words_that_end_it(self, shell: SqlShell, tmp_path: Path, word: str) -> None:
        with self.typed(f"{word}\rDROP TABLE users;\r\x04"):
            run_prompt(shell, tmp_path / "history")
        assert shell.tables() == ["users"]

    @pytest.mark.parametrize("error", ["CONFLICT run it again", "TOOLARGE divide it"])
    def test_a_lost_transaction(
        self, shell: SqlShell, fake: FakeSqlCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str], error: str
    ) -> None:
        fake.inject("DELETE", error)
        with self.typed("BEGIN;\rDELETE FROM users;\rINSERT INTO users (name) VALUES ('Ada');\r\x04"):
            run_prompt(shell, tmp_path / "history")
        assert not shell.in_transaction
        printed = capfd.readouterr()
        assert printed.err.splitlines()[-2:] == [
            f"Error: {error.partition(' ')[2]}",
            "Warning: the transaction was rolled back",
        ]
        assert printed.out.splitlines() == ["OK", "1 row changed"]

    def test_the_end_of_the_prompt_ends_a_transaction(
        self, shell: SqlShell, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with self.typed("BEGIN;\r\x04"):
            run_prompt(shell, tmp_path / "history")
        assert "Warning: the transaction was rolled back, as there was no COMMIT" in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("statements", "warning"),
        [
            ("SELECT 1;", "interrupted"),
            ("DELETE FROM users;", "interrupted: what was executed may have taken effect"),
            ("BEGIN; DELETE FROM users;", "interrupted: the transaction was rolled back"),
        ],
    )
    def test_ctrl_c_during_a_statement(
        self,
        shell: SqlShell,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        statements: str,
        warning: str,
    ) -> None:
        def interrupted(cursor: object, **options: object) -> None:
            if not statements.startswith("BEGIN") or shell.in_transaction:
                raise KeyboardInterrupt

        monkeypatch.setattr("replicator.cli.sql_shell.print_result", interrupted)
        with self.typed(f"{statements}\r\x04"):
            run_prompt(shell, tmp_path / "history")
        assert capfd.readouterr().err.splitlines()[1:] == [f"Warning: {warning}"]
        assert not shell.in_transaction

    def test_a_history_that_cannot_be_written(self, shell: SqlShell, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with self.typed(".tables\r\x04"):
            run_prompt(shell, tmp_path / "file" / "history")

    def test_completion(self, shell: SqlShell, fake: FakeSqlCluster) -> None:
        def complete(text: str) -> list[str]:
            document = Document(text.replace("|", ""), text.index("|"))
            return [it.text for it in SqlCompleter(shell).get_completions(document, CompleteEvent())]

        assert complete("SEL|") == ["SELECT"]
        assert complete("sel|") == ["select"]
        assert complete(".sch|") == [".schema"]
        assert complete("SELECT * FROM us|") == ["users", "using"]
        assert complete("SELECT na| FROM users") == ["name", "natural"]
        assert complete("SELECT users.d| FROM users")[0] == "data"
        assert "name" not in complete("SELECT na|")
        for _ in range(100):
            fake.inject("SELECT name", "STALE too old")
        assert complete("us|") == ["using"]
