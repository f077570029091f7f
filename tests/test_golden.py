"""The golden record: six cells learn and score what they did before, bit for bit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from holdfast.registry import AGENTS, METHODS

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def golden(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import golden

    return golden


def _git(*arguments: str) -> str:
    """Return what git prints, empty where it fails."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _base() -> str:
    """Return the newest release before HEAD, or else the commit before it."""
    if shutil.which("git") is None or _git("rev-parse", "--show-toplevel") != str(ROOT.resolve()):
        pytest.skip("not a git checkout: there is nothing to compare with")
    newest = _git("describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", "HEAD~1")
    base = newest or _git("rev-parse", "--verify", "--quiet", "HEAD~1")
    if not base:
        pytest.skip("a shallow clone: neither a release nor the commit before HEAD is there")
    return base


@pytest.mark.thorough
def test_six_cells_equal_those_of_the_newest_release(golden: Any) -> None:
    command = [sys.executable, BENCHMARKS / "golden.py", "--ci", "--against", _base()]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = [line.split()[:2] for line in done.stdout.splitlines()]
    assert {name for name, _ in lines} == set(golden.CI), done.stderr
    assert {verdict for _, verdict in lines} <= {"equal", "changed"}, done.stdout
    assert done.returncode == 0


def test_every_method_and_every_algorithm_has_a_cell(golden: Any) -> None:
    cells = golden.cells().values()
    entries = [cell["methods"][0] for cell in cells]
    parts = [part for entry in entries for part in (entry if isinstance(entry, list) else [entry])]
    named = {part if isinstance(part, str) else next(iter(part)) for part in parts}
    assert named >= set(METHODS)
    assert {cell["agent"]["algorithm"] for cell in cells} == set(AGENTS)
    assert set(golden.CI) <= {cell["name"] for cell in cells}


def _recorded(golden: Any, folder: Path, *, weight: float = 0.0, returned: float = 1.0) -> Any:
    for stage in (2, 10):  # the last one is not the last by name
        checkpoint = folder / "checkpoints" / f"task-{stage}"
        checkpoint.mkdir(parents=True)
        tensors = {"a.bias": np.zeros(2), "a.weight": np.array([1.0, weight * (stage == 10)])}
        save_file(tensors, checkpoint / "policy.safetensors")
    scores = [{"task": "a", "return": 3.0}, {"return": returned, "task": "b", "wall_s": weight}]
    (folder / "scores.jsonl").write_text("".join(json.dumps(s) + "\n" for s in scores))
    return golden.Recorded(golden.hashes(folder, "0"), folder, 1.0, "")


def test_a_record_names_what_differs(golden: Any, tmp_path: Path) -> None:
    one, same = (_recorded(golden, tmp_path / name) for name in ("one", "same"))
    assert list(one.hashes) == ["policy.safetensors", "scores.jsonl", "acts"]
    assert golden.differences(one, same) == []
    # The least number there is; and minus zero, which equals zero and is another bit.
    for number, weight in enumerate((5e-324, -0.0)):
        other = _recorded(golden, tmp_path / f"weight-{number}", weight=weight)
        assert golden.differences(one, other) == ["policy.safetensors (a.weight)"]
    other = _recorded(golden, tmp_path / "score", returned=2.0)
    told = "scores.jsonl (line 2: return 1.0, on the other side 2.0)"
    assert golden.differences(one, other) == [told]
    lacks = other._replace(hashes={k: v for k, v in one.hashes.items() if k != "acts"})
    assert golden.differences(one, lacks) == ["acts (on this side only)"]


def test_what_a_commit_announces_may_differ_and_nothing_may_fail(
    golden: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = _recorded(golden, tmp_path / "one")
    other = _recorded(golden, tmp_path / "other", weight=1.0)
    announced = golden.announcements("\nppo-* losses are summed in another order\nsac-l2\n")
    assert golden.compare({"ppo-l2": one}, {"ppo-l2": other}, announced)
    assert "announced: losses are summed in another order; policy" in capsys.readouterr().out
    assert not golden.compare({"sac-l2": one}, {"sac-l2": other}, announced)  # it says no reason
    failed = one._replace(hashes={}, error="UsageError: no such key")
    assert not golden.compare({"ppo-l2": failed}, {"ppo-l2": failed}, announced)
    assert "this side failed: UsageError: no such key" in capsys.readouterr().out


def test_a_worktree_is_removed_when_interrupted(golden: Any) -> None:
    _base()
    made: list[Path] = []

    def interrupted() -> None:
        with golden.worktree("HEAD") as path:
            made.append(path)
            assert (path / "pyproject.toml").exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not made[0].parent.exists()
    assert str(made[0]) not in _git("worktree", "list")


@pytest.mark.thorough
def test_a_module_of_the_other_side_is_an_error(golden: Any, tmp_path: Path) -> None:
    """Python looks for a module that a side lacks among what is installed."""
    (tmp_path / "source" / "src").mkdir(parents=True)
    command = [sys.executable, golden.SIDE, tmp_path / "source", tmp_path, "ppo-l2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "was not loaded from" in json.loads(done.stdout)["error"]
