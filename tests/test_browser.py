from pathlib import Path

import pytest
from browser import Visit

PAGE = """<!doctype html><meta charset="utf-8"><title>t</title><link rel="icon" href="data:,">
<style>p {color: rgb(1, 2, 3)} @media (prefers-color-scheme: dark) {p {color: rgb(4, 5, 6)}}</style>
<p>text</p>"""


def test_a_sound_page_has_no_problems_and_two_colour_schemes(browser, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE, encoding="utf-8")
    found = []
    for scheme in ("light", "dark"):
        visit = Visit(browser, color_scheme=scheme)
        visit.page.goto((tmp_path / "a.html").as_uri())
        found.append(visit.page.eval_on_selector("p", "p => getComputedStyle(p).color"))
        assert visit.problems == []
        assert visit.requests == [(tmp_path / "a.html").as_uri()]
    assert found == ["rgb(1, 2, 3)", "rgb(4, 5, 6)"]


@pytest.mark.thorough
def test_errors_on_a_page_are_heard(browser, tmp_path: Path) -> None:
    broken = PAGE + "<img src='no.png'><script>console.error('one'); throw Error('two')</script>"
    (tmp_path / "a.html").write_text(broken, encoding="utf-8")
    visit = Visit(browser)
    visit.page.goto((tmp_path / "a.html").as_uri())
    for word in ("no.png", "one", "two"):
        assert any(word in problem for problem in visit.problems)
