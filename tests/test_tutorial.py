"""The tutorial's commands, in its order, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli import app
from holdfast.envs.checks import probes

PAGE = Path(__file__).parents[1] / "scenarios" / "custom_env" / "README.md"
TEXT = PAGE.read_text("utf-8")
# A block is marked by the comment above it: the file that it is, or that it is to be run.
MARKED = re.compile(r"<!-- (file: (?P<file>\S+)|run) -->\n```(?P<kind>\w*)\n(?P<text>.*?)```", re.S)
FENCED = re.compile(r"^```\w*$", re.M)

SAID = {
    "check-env my_arm.py": "my_arm:Arm will work here",
    "new scenario start_here": "start_here.yaml",
    "validate my_arm.yaml": "my_arm.yaml: good; 4 tasks, 3 cells",
    "validate --build my_arm.yaml": "good, and builds",
    "check-env my_arm.yaml": "4 of 4 tasks will work here",
    "run my_arm.yaml --dry-run": "48,000 steps in all",
    "run my_arm.yaml tasks[0].steps=256": "| cloning | 1 |",
    "report runs/my_arm": "## Scores of each task",
    "video runs/my_arm/cloning/seed-0": "loaded",
    "validate --build real_arm.yaml": "real_arm.yaml: good, and builds",
    "run real_arm.yaml --dry-run": "left, right is exclusive and must not move",
}


def test_every_block_of_the_page_is_a_file_or_is_run() -> None:
    assert len(FENCED.findall(TEXT)) == 2 * len(MARKED.findall(TEXT))


@pytest.mark.slow
def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: each command of its own would spend its time on imports."""
    monkeypatch.chdir(tmp_path)
    for name, less in {"_SPEED_S": 0.02, "_PROBE_STEPS": 30, "_LIMIT_STEPS": 100}.items():
        monkeypatch.setattr(probes, name, less)
    blocks = [match.groupdict() for match in MARKED.finditer(TEXT)]
    for block in blocks:
        if block["file"]:
            Path(block["file"]).write_text(block["text"], "utf-8")
    expected = dict(SAID)
    for block in blocks:
        if block["file"]:
            continue
        if block["kind"] == "python":
            exec(block["text"], {})
            assert re.search(r"^(True|False) \d+$", capsys.readouterr().out, re.M)
            continue
        for line in block["text"].splitlines():
            program, *arguments = shlex.split(line)
            if program == "tensorboard":
                continue  # the next test
            result = CliRunner().invoke(app, arguments)
            assert (program, result.exit_code) == ("holdfast", 0), (line, result.output)
            key = next(key for key in expected if " ".join(arguments).startswith(key))
            assert expected.pop(key) in result.stdout, line
    assert expected == {}
    assert {path.name for path in Path("runs/my_arm").iterdir()} >= {"naive", "ewc", "cloning"}
    assert list(Path("runs/my_arm/cloning/seed-0/videos").iterdir())
    assert list(Path("runs").rglob("events.out.tfevents.*"))


@pytest.mark.kill
@pytest.mark.slow
def test_tensorboard_starts_as_the_page_says(tmp_path: Path) -> None:
    (line,) = re.findall(r"^tensorboard .*$", TEXT, re.M)
    program = Path(sysconfig.get_path("scripts")) / "tensorboard"
    command = [sys.executable, str(program), *shlex.split(line)[1:], "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stderr is not None
    try:
        assert any("at http://" in told for told in process.stderr)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
