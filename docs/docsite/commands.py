"""The reference of the command line, by typer's own generator."""

from __future__ import annotations

import re

import typer
from typer.cli import get_docs_for_click

from holdfast.cli import app


def page() -> str:
    """Return every command in markdown, with its arguments and options."""
    group = typer.main.get_command(app)
    text = get_docs_for_click(obj=group, ctx=typer.Context(group), name="holdfast")
    _, _, below = text.partition("\n\n")  # the page has a heading of its own
    # Each command has a heading: no list of them, whose sentences it cuts.
    return re.sub(r"\*\*Commands\*\*:\n\n(?:\* .*\n)+", "", below)
