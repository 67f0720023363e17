"""Targets, maps and names of sinks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.stream.sinks.build import build_sink
from replicator.stream.sinks.settings import (
    DEFAULT_MAPS,
    SinkSettings,
    TableMap,
    Target,
    TargetKind,
    TargetOptions,
    parse_maps,
    table_of,
)


class TestTargets:
    @pytest.mark.parametrize(
        ("text", "kind", "place"),
        [
            ("jsonl:/tmp/a.jsonl", TargetKind.JSONL, "/tmp/a.jsonl"),
            ("parquet:/tmp/a", TargetKind.PARQUET, "/tmp/a"),
            ("postgres:dbname=shop", TargetKind.POSTGRES, "dbname=shop"),
            ("postgres://ada@db/shop", TargetKind.POSTGRES, "postgresql://ada@db/shop"),
            ("postgresql://db/shop", TargetKind.POSTGRES, "postgresql://db/shop"),
            ("postgres:postgresql://db/shop", TargetKind.POSTGRES, "postgresql://db/shop"),
            ("https://host:8443/a?b=c", TargetKind.HTTP, "https://host:8443/a?b=c"),
            ("http://[::1]:80", TargetKind.HTTP, "http://[::1]:80"),
        ],
    )
    def test_a_target_is_a_kind_and_a_place(self, text: str, kind: TargetKind, place: str) -> None:
        target = Target.parse(text)
        assert (target.kind, target.location) == (kind, place)
        assert Target.parse(str(target)) == target

    def test_paths_are_absolute(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        assert Target.parse("jsonl:a.jsonl").location == str(tmp_path / "a.jsonl")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("kafka:x", "unknown target kafka: expected jsonl:PATH"),
            ("jsonl:~nosuchuser/x", "the target is '~nosuchuser/x', and there is no such home folder"),
            ("jsonl:", "invalid target 'jsonl:'"),
            ("changes.jsonl", "invalid target 'changes.jsonl'"),
            ("postgres:dbname=a password=secret", "leave it out, and set PGPASSWORD"),
            ("postgres:postgresql://ada:secret@db/shop", "leave it out, and set PGPASSWORD"),
            ("postgres://db/shop?user=a&password=secret", "leave it out, and set PGPASSWORD"),
            ("postgres://[::1/shop", "invalid address of PostgreSQL"),
            ("http://ada:secret@host/", "the URL has a login"),
            ("http:///path", "it has no host"),
            ("http://host:port/", "invalid URL"),
            ("http://host/a b", "write spaces and other characters as %XX"),
        ],
    )
    def test_targets_that_are_refused(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as refusal:
            Target.parse(text)
        assert "secret" not in str(refusal.value) or text.startswith("jsonl")


class TestMaps:
    def test_by_default_all_keys_are_in_one_table(self) -> None:
        assert parse_maps([], []) == DEFAULT_MAPS
        assert parse_maps([], ["city,name"]) == (TableMap("*", "kv", ("city", "name")),)

    def test_patterns_tables_and_columns(self) -> None:
        maps = parse_maps(["airport:*=airports", "a=b=other.t"], ["airports=name, city,name"])
        assert maps == (TableMap("airport:*", "airports", ("name", "city")), TableMap("a=b", "other.t"))

    def test_the_first_pattern_that_matches_counts(self) -> None:
        maps = parse_maps(["a*=one", "ab=two", "[x-z]?=three", "\udcff*=four"], [])
        found = [table_of(maps, row) for row in (b"ab", b"x1", b"b", b"\xff\0")]
        assert [it and it.table for it in found] == ["one", "three", None, "four"]

    @pytest.mark.parametrize(
        ("maps", "columns", "message"),
        [
            (["airports"], [], "invalid map 'airports': expected PATTERN=TABLE"),
            (["=t"], [], "invalid map"),
            (["a" * 600 + "=t"], [], "invalid map .*: .*pattern"),
            (["a*="], [], "invalid map"),
            (["a*=t"], ["u=name"], "with one of the tables t"),
            (["a*=t", "b*=u"], ["name"], "with one of the tables t, u"),
            (["a*=t"], ["name,,city"], "'' cannot be the column of a field"),
            (["a*=t"], ["key"], "'key' cannot be the column of a field"),
        ],
    )
    def test_maps_that_are_refused(self, maps: list[str], columns: list[str], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            parse_maps(maps, columns)


class TestSettings:
    def test_they_are_the_same_after_they_were_stored(self) -> None:
        target = Target.parse("postgres:dbname=a")
        settings = SinkSettings("s", "shop", target, parse_maps(["a*=t"], ["x,y"]))
        assert SinkSettings.from_json(settings.as_json()) == settings

    def test_options_of_other_targets_are_refused(self) -> None:
        target = Target.parse("jsonl:/a")
        with pytest.raises(ConfigError, match="leave out --map and --columns"):
            SinkSettings("s", "shop", target, parse_maps([], ["a"]))
        with pytest.raises(ConfigError, match="leave out --dead-letters"):
            SinkSettings("s", "shop", target, dead_letters="/dead")

    @pytest.mark.parametrize(
        ("module", "target", "extra"),
        [("psycopg", "postgres:dbname=a", "postgres"), ("pyarrow", "parquet:/tmp/a", "parquet")],
    )
    def test_a_missing_extra_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, target: str, extra: str
    ) -> None:
        for loaded in [it for it in sys.modules if it.startswith(f"replicator.stream.sinks.{extra}")]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ConfigError, match=rf"pip install 'replicator\[{extra}\]'"):
            build_sink(SinkSettings("s", "shop", Target.parse(target)), tmp_path, TargetOptions())
