"""`make docs` builds the site without a warning, and no link of a page leads nowhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.doc_pages import DOCS, PAGES, ROOT

LOADED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "object": "data", "source": "src"}
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked at."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.classes: set[str] = set()
        self.tables = 0
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        self.classes |= set(given.get("class", "").split())
        self.tables += tag == "table"
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif given.get(LOADED.get(tag, "")):
            self.loaded.append(given[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    folder = tmp_path_factory.mktemp("site").resolve()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # the links of 404.html are those of a site at the root of its host
    return {file: Page(file) for file in folder.rglob("*.html") if file.name != "404.html"}


def test_every_page_is_on_the_site(site: dict[Path, Page]) -> None:
    assert {file.stem for file in site} == {page.stem for page in DOCS.glob("*.md")}


def test_links_and_anchors_of_the_site_exist(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), f"{file.name}: {link}"
            assert target not in site or unquote(parts.fragment) in site[target].anchors, f"{file.name}: {link}"


def test_a_browser_loads_nothing_from_other_hosts(site: dict[Path, Page]) -> None:
    for file, page in site.items():
        assert [it for it in page.loaded if urlsplit(it).netloc] == [], file.name
        assert "mermaid" not in page.classes, "the theme would load a script from another host to draw it"
    [folder] = {file.parent for file in site if file.name == "index.html"}
    for style in folder.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()), style.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_exist_where_the_sources_are_read(page: Path) -> None:
    """As GitHub shows them."""
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / parts.path).resolve() if parts.path else page
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in anchors(target), link


def anchors(page: Path) -> list[str]:
    """Those that GitHub gives to headings."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return [re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]


def test_diagrams_have_a_background_of_their_own() -> None:
    """So that they are legible on light and on dark pages, whatever the browser prefers."""
    diagrams = list(DOCS.glob("*.svg"))
    assert len(diagrams) >= 2
    for diagram in diagrams:
        text = diagram.read_text()
        width, height = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', text)[0])
        assert f'<rect class="panel" x="1" y="1" width="{width - 2}" height="{height - 2}"' in text
        assert "@media (prefers-color-scheme: dark)" in text and "<title" in text
        assert not re.search(r'(?:href|src)="http', text)


def test_the_site_has_the_tables_of_the_sources(site: dict[Path, Page]) -> None:
    """A table needs an empty line before it there, and not on GitHub."""
    for file, page in site.items():
        source = _FENCE.sub("", (DOCS / f"{file.stem}.md").read_text())
        assert page.tables == len(re.findall(r"^\|(?: ?-+ ?\|)+$", source, re.MULTILINE)), file.name
