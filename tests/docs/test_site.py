"""The built site: whole, every link and anchor leads somewhere, and nothing is fetched."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Visit
from docsite import gallery, staging
from pages import ROOT
from scipy.stats import sem, t

from holdfast.scenarios.shipped import shipped

PAGES = ("index.html", "docs/keys.html", "docs/gallery.html", "scenarios/quickstart.yaml.html")


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors |= {value for name in ("id", "name") if (value := known.get(name))}
        if tag == "a" and known.get("href"):
            self.links.add(str(known["href"]))
        sources = [known.get("src"), known.get("href") if tag == "link" else None]
        self.loads |= {source for source in sources if source}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build it, with every warning an error."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "docsite", "--into", folder]
    done = subprocess.run(command, cwd=ROOT / "docs", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_links_and_anchors_lead_somewhere(site: Path) -> None:
    """Of every page, those of menus too."""
    parsed = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    assert len(parsed) > 100
    missing = []
    for path, page in parsed.items():
        if path.name == "404.html":  # its links count from wherever it is shown
            continue
        for link in page.links | page.loads:
            if re.match(r"(https?|data|mailto|javascript):", link):
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            known = parsed[target].anchors if target in parsed else {anchor}
            if not target.is_file() or (anchor and anchor not in known):
                missing.append((path.name, link))
    assert missing == []


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not {load for load in Page(path).loads if "//" in load}, path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", path.read_text("utf-8")), path


@pytest.mark.slow
def test_every_shipped_scenario_and_page_is_there(site: Path) -> None:
    scenarios = {path.name.removesuffix(".yaml.html") for path in site.rglob("*.yaml.html")}
    assert set(shipped()) <= scenarios
    for page in staging.pages():
        built = page.with_suffix(".html")
        assert any((site / path).is_file() for path in (built, built.with_name("index.html"))), page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_pages_open_without_a_network(site: Path, browser: Any, scheme: str, width: int) -> None:
    """No request leaves, no error is told, and no page is wider than its window."""
    grounds = set()
    for name in PAGES:
        size = {"width": width, "height": 900}
        visit = Visit(browser, color_scheme=scheme, viewport=size, offline=True)
        visit.page.goto((site / name).as_uri())
        visit.page.wait_for_selector("h1")
        assert visit.problems == []
        assert [url for url in visit.requests if not url.startswith(("file:", "data:"))] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        ground = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        grounds.add(ground)
    (ground,) = grounds
    red = int(re.findall(r"\d+", ground)[0])
    assert (red > 200) == (scheme == "light")


@pytest.mark.slow
def test_search_finds_a_key_on_the_disk(site: Path, browser: Any) -> None:
    """From a page in a folder, whose own links lead to no key."""
    visit = Visit(browser, viewport={"width": 1400, "height": 900}, offline=True)
    visit.page.goto((site / "docs" / "start.html").as_uri())
    visit.page.keyboard.press("Control+k")
    found = visit.page.locator("a[href*='#detector.page_hinkley.tolerance']")
    assert found.count() == 0
    visit.page.keyboard.type("page_hinkley tolerance")
    found.first.wait_for(timeout=30_000)
    assert visit.problems == []


def test_numbers_of_the_gallery_are_those_of_the_methods_page() -> None:
    """Means and deviations of the quickstart, from the same file by other code."""
    page = gallery.scenario_pages()["scenarios/quickstart.yaml.md"]
    table = (ROOT / "docs" / "methods.md").read_text("utf-8").split("<!-- quickstart:begin -->")[1]
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\S+ ± \S+) \| (\S+ ± \S+) \|", table, re.M)[:5]
    assert len(rows) == 5
    for row in rows:
        assert f"| {' | '.join(row)} |" in page
    assert "<svg" in page


def test_an_interval_is_that_of_scipy() -> None:
    scores = np.array([0.2, 0.5, 0.3, 0.9])
    mean, *ends = gallery.interval(scores)
    assert mean == scores.mean()
    assert ends == pytest.approx(t.interval(0.95, 3, scores.mean(), sem(scores)), rel=1e-12)


def test_links_to_files_lead_to_pages_that_show_them(tmp_path: Path) -> None:
    staged = staging.Staged(tmp_path)
    text = (
        "[a](../Makefile) [b](science.md#x) [c](../scenarios/quickstart.yaml) [d](../scenarios)\n"
    )
    staged.add(Path("docs/some.md"), f"{text}\n```\n[a](../Makefile)\n```\n")
    written = (tmp_path / "docs" / "some.md").read_text("utf-8")
    assert written.startswith(
        "[a](../Makefile.md) [b](science.md#x) [c](../scenarios/quickstart.yaml.md) [d](gallery.md)"
    )
    assert "```\n[a](../Makefile)\n```" in written
    assert "make docs" in (tmp_path / "Makefile.md").read_text("utf-8")
