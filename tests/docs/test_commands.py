"""The reference of the command line has every command, argument and option."""

import re

import pytest
import typer
from docsite import commands

from holdfast.cli import app

PAGE = commands.page()
GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]  # a group


def section(name: str) -> str:
    (text,) = re.findall(rf"^## `holdfast {name}`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return text


def test_every_command_has_a_section() -> None:
    assert re.findall(r"^## `holdfast ([\w-]+)`", PAGE, re.M) == list(COMMANDS)
    assert "**Commands**" not in PAGE
    assert "* `--version`: " in PAGE


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_is_told(name: str) -> None:
    text = section(name)
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option":
            assert re.search(rf"^\* `[^`]*{parameter.opts[0]}\b[^`]*`: \w", text, re.M), parameter
        else:
            shown = re.escape(parameter.metavar or parameter.name)
            assert re.search(rf"^\* `[^`]*{shown}[^`]*`: \w", text, re.M), parameter
