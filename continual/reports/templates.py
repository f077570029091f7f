"""Templates of a report: its page, styles, script and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FOLDER = Path(__file__).with_name("texts")


def environment(**options: Any) -> Environment:
    """Return Jinja's environment for the templates; lines of statements alone leave no line."""
    return Environment(  # noqa: S701  # the page's own asks for it
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
