"""Skeletons: they work as they stand, and overwrite nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.new import new
from holdfast.scenarios.load import load


@pytest.mark.slow
def test_their_own_tests_pass(tmp_path: Path) -> None:
    """An environment and a method under names of their own, in a folder with spaces."""
    folder = tmp_path / "my robots"
    folder.mkdir()
    written = [*new("env", "big_arm", folder), *new("method", "gentle", folder)]
    assert sorted(path.name for path in written) == [
        *("big_arm.py", "big_arm.yaml", "gentle.py", "gentle.yaml"),
        *("test_big_arm.py", "test_gentle.py"),
    ]
    texts = "".join(path.read_text("utf-8") for path in written)
    assert "my_env" not in texts
    assert "MyMethod" not in texts
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


def test_a_scenario_is_good(tmp_path: Path) -> None:
    (path,) = new("scenario", "planets", tmp_path)
    assert load(path).name == "planets"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-arm", "cannot name a module"),
        ("Arm", "cannot name a module"),
        ("class", "cannot name a module"),
        ("gymnasium", "is installed already"),
        ("json", "is installed already"),
        ("taken", "test_taken.py is in .* already"),
    ],
)
def test_names_that_cannot_be(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "test_taken.py").write_text("")
    with pytest.raises(UsageError, match=message):
        new("env", name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["test_taken.py"]
