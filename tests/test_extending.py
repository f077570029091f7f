"""The page of code of one's own: its examples run, and its package is the sample's."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import holdfast
from holdfast.offers import GROUPS
from holdfast.scenarios.load import load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", PAGE, re.S))
LINE = (ROOT / "tests" / "helpers" / "own_parts" / "buffers.py").read_text("utf-8")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / "line.py").write_text(LINE, "utf-8")  # a world with goals
    return tmp_path


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.endswith(".yaml")))
def test_every_example_is_good(name: str, lab: Path) -> None:
    assert load(lab / name).tasks


def test_the_package_of_the_page_is_the_sample() -> None:
    sample = tomllib.loads(
        (ROOT / "tests/helpers/sample_package/pyproject.toml").read_text("utf-8")
    )["project"]["entry-points"]
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
    shown = tomllib.loads(text)["project"]["entry-points"]
    assert set(shown) == set(sample) == {f"holdfast.{group}" for group in GROUPS}
    for group, names in shown.items():
        assert names.items() <= sample[group].items()
    assert re.findall(r"^\| `holdfast\.(\w+)` \|", PAGE, re.M) == list(GROUPS)


def run(path: Path, *overrides: str) -> Path:
    (finished, *_) = holdfast.run(holdfast.load(path, overrides), runs=path.parent / "runs")
    assert finished.status == "finished"
    return finished.folder.path


@pytest.mark.slow
def test_the_callback_of_the_page(lab: Path) -> None:
    folder = run(lab / "falls.yaml", "evaluation={episodes: 1}")
    states = [load_file(folder / f"checkpoints/task-{k}/callbacks.safetensors") for k in (0, 1)]
    falls = [int(re.findall(rb'"falls": (\d+)', s["json"].tobytes())[0]) for s in states]
    assert 0 < falls[0] < falls[1]  # it went on counting


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hindsight.yaml", "noise.yaml", "extracted.yaml"])
def test_the_other_examples_run(name: str, lab: Path) -> None:
    folder = run(lab / name, "evaluation={episodes: 1}")
    policy = load_file(folder / "checkpoints/task-0/policy.safetensors")
    if name == "extracted.yaml":
        assert policy["features_extractor.layer.weight"].shape == (8, 2 * (4 + 1))
