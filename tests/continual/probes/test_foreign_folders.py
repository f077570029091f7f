"""A run folder from elsewhere is data: no link is followed, and no code runs that nobody trusts."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.continual.probes.adaptation import adapt
from holdfast.continual.probes.counterfactual import counterfactual
from holdfast.continual.probes.explanation import explain
from holdfast.continual.probes.outcomes import (
    ADAPT,
    COUNTERFACTUAL,
    STRESS,
    AdaptPlan,
    CounterfactualPlan,
)
from holdfast.continual.probes.reasons import EXPLAIN, ExplainPlan
from holdfast.continual.probes.stress import plan_of, stress
from holdfast.continual.run_folder.record import RunFolder
from holdfast.errors import CheckpointUnusable, CodeNotTrusted

PROBES: dict[str, Callable[[RunFolder], object]] = {
    STRESS: lambda cell: stress([cell], plan_of(["action_delay=1"], 1)),
    EXPLAIN: lambda cell: explain([cell], ExplainPlan(states=4)),
    ADAPT: lambda cell: adapt([cell], AdaptPlan(task="plain", steps=32, every=32, episodes=1)),
    COUNTERFACTUAL: lambda cell: counterfactual(
        [cell], CounterfactualPlan(task="plain", states=2, worlds=[])
    ),
}


@pytest.mark.parametrize("name", PROBES)
def test_no_link_is_followed(name: str, cell: RunFolder, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    if name.endswith(".jsonl"):
        outside.write_text("mine")
    else:
        outside.mkdir()
    (cell.path / name).symlink_to(outside)
    with pytest.raises(CheckpointUnusable, match=name):
        PROBES[name](cell)
    assert outside.read_text() == "mine" if outside.is_file() else not list(outside.iterdir())


@pytest.mark.parametrize("name", PROBES)
def test_no_code_is_imported(name: str, cell: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    path = cell.path / "scenario.yaml"
    path.write_text(path.read_text().replace("env: CartPole-v1", "env: evil:World"))
    assert "evil:World" in path.read_text()
    with pytest.raises(CodeNotTrusted, match="evil"):
        PROBES[name](RunFolder(cell.path))
