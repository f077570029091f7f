"""What pages show is right: scenarios are good, commands are taken, Python runs."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
import yaml
from pages import ROOT, Block, bases, blocks, make_room, merged, parsed, texts

from holdfast.cli import app
from holdfast.scenarios.load import load

TEXTS = texts()
BLOCKS = {page: blocks(page, text) for page, text in TEXTS.items()}
BASES = bases()
GROUP = typer.main.get_command(app)
ELSEWHERE = ("scenarios/custom_env/README.md",)
"""Pages whose every block has a test of its own."""


def having(kind: str) -> list[str]:
    return [
        page
        for page, found in BLOCKS.items()
        if page not in ELSEWHERE and any(block.kind == kind for block in found)
    ]


def test_a_block_is_found_with_its_mark() -> None:
    page = "a\n\n<!-- in: cart -->\n```yaml\nn_envs: 2\n```\n\n```\nholdfast list envs\n```\n"
    assert blocks("p", page) == [
        Block("p", "in: cart", "yaml", "n_envs: 2\n"),
        Block("p", "", "", "holdfast list envs\n"),
    ]


@pytest.mark.parametrize("page", having("yaml"))
def test_scenarios_are_good(page: str, tmp_path: Path) -> None:
    """Whole ones as they are; fragments in the scenario that their mark names, else in `cart`."""
    folder = make_room(tmp_path)
    for block in BLOCKS[page]:
        if block.kind == "python" and block.named("file"):
            (folder / block.named("file")).write_text(block.text, "utf-8")
    for number, block in enumerate(BLOCKS[page]):
        if block.kind != "yaml":
            continue
        data = parsed(block.text)
        if not {"tasks", "agent", "methods"} <= set(data):
            data = merged(BASES[block.named("in") or "cart"], data)
        file = folder / f"block-{number}.yaml"
        file.write_text(yaml.safe_dump(data, sort_keys=False), "utf-8")
        load(file)


def commands(block: Block) -> list[list[str]]:
    """Return the arguments of each ``holdfast`` in a shell's block."""
    if block.kind not in ("", "bash"):
        return []
    text = block.text.replace("\\\n", " ")
    lines = re.findall(r"^ *(?:srun )?holdfast (.*)$", text, re.M)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", [p for p, found in BLOCKS.items() if any(map(commands, found))])
def test_commands_are_taken(page: str) -> None:
    """Each command exists, and takes the arguments and options that it is given."""
    for block in BLOCKS[page]:
        for name, *arguments in commands(block):
            GROUP.commands[name].make_context(name, arguments)  # type: ignore[attr-defined]  # a group


def test_an_option_that_is_none_is_refused() -> None:
    (words,) = commands(Block("p", "", "", "holdfast run a.yaml --job 2  # too few letters\n"))
    assert words == ["run", "a.yaml", "--job", "2"]
    with pytest.raises(Exception, match="No such option"):
        GROUP.commands["run"].make_context("run", words[1:])  # type: ignore[attr-defined]  # a group


def test_extras_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = known["project"]["optional-dependencies"]
    asked = {
        name
        for text in TEXTS.values()
        for names in re.findall(r"holdfast\[([\w,]+)\]", text)
        for name in names.split(",")
    }
    assert asked - {"extra"} <= set(extras)  # `holdfast[extra]` stands for any of them


@pytest.mark.parametrize("page", having("python"))
def test_python_is_run_or_a_file(page: str) -> None:
    """What is neither is a row of a file that is there, which tests/test_readme.py holds to it."""
    for block in BLOCKS[page]:
        if block.kind == "python":
            assert block.mark == "run" or block.named("file") or page == "CONTRIBUTING.md"
            if block.mark:
                compile(block.text, page, "exec")


def test_the_page_of_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (block for block in BLOCKS["docs/python.md"] if block.mark == "run")
    exec(block.text, {})
    assert capsys.readouterr().out.startswith("quickstart ['plain', 'swapped-actions',")
