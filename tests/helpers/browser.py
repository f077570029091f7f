"""Pages opened in a real browser: the system's chromium, headless, driven by Playwright.

No browser is downloaded. ``CHROMIUM`` names another executable. Without one, tests are skipped;
continuous integration sets ``HOLDFAST_BROWSER=required``, and then they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def executable() -> str:
    """Return the browser's path; skip the test, or fail it where a browser is required."""
    wanted = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [wanted] if wanted else _NAMES)), None)
    if found:
        return found
    why = "no chromium: apt-get install chromium, or name a browser by CHROMIUM=/path/to/it"
    if os.environ.get("HOLDFAST_BROWSER") == "required":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


@contextmanager
def launched() -> Iterator[Any]:
    """Start a browser for the length of a ``with`` block.

    Playwright's event loop runs in this thread until then: no ``asyncio.run`` inside.
    """
    path = executable()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


class Visit:
    """One page in a window of its own, and what went wrong on it.

    Attributes:
        page: Playwright's page.
        problems: Console errors and warnings, uncaught exceptions, requests that failed or were
            answered by an error.
        requests: Every address that was asked for, the page's own first.
    """

    def __init__(self, browser: Any, **context: Any) -> None:
        """Open an empty window.

        Args:
            browser: The fixture ``browser``.
            **context: Of Playwright's ``new_context``: ``color_scheme``, ``viewport``, ...
        """
        self.page = browser.new_context(**context).new_page()
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda it: self.problems.append(f"{it.url}: {it.failure}"))
        self.page.on("response", self._judge)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def _judge(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.url}: {response.status}")
