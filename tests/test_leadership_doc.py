"""docs/leadership.md shows the tables of the code."""

from __future__ import annotations

from replicator.protocol.roles import TRANSITIONS, Event, Role
from tools.leadership_doc import PAGE, PARTS, regenerated, roles


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert page == regenerated(page), "docs/leadership.md is stale: run `python -m tools.leadership_doc`"


def test_the_page_has_a_place_for_each_part() -> None:
    page = PAGE.read_text()
    for name in PARTS:
        assert page.count(f"<!-- generated: {name} -->\n") == 1
    assert page.count("<!-- end -->") == len(PARTS)


def test_only_stale_parts_are_regenerated() -> None:
    page = regenerated("before\n<!-- generated: data -->\nold\n<!-- end -->\nafter\n")
    assert page.startswith("before\n<!-- generated: data -->\n| first condition")
    assert page.endswith("| none of these | accepted |\n<!-- end -->\nafter\n")
    assert regenerated(page) == page


def test_the_table_of_roles_shows_every_transition() -> None:
    table = roles()
    assert sum(table.count(event) for event in Event) == len(TRANSITIONS)
    assert all(f"\n| {role} | " in table and f" | {role} |\n" in table + "\n" for role in Role)
