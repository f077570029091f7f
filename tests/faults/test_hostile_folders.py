"""Run folders made to harm: refused by name, nothing run, nothing outside touched."""

from __future__ import annotations

import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.continual.jobs.run_folders import prepare
from holdfast.continual.reports.report import report
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.measure import Plan, measure
from holdfast.continual.training.cell import run_cell
from holdfast.errors import HoldfastError
from holdfast.scenarios.schema.scenario import Scenario

GIVEN: dict[str, Any] = {
    "name": "small",
    "tasks": [
        {"name": name, "env": "CartPole-v1", "steps": 64, "changes": changes}
        for name, changes in (("t0", {}), ("t1", {"action_map": [1, 0]}))
    ],
    "agent": {
        "algorithm": "ppo",
        "n_steps": 32,
        "batch_size": 64,
        "n_epochs": 1,
        "policy_kwargs": {"net_arch": [8]},
    },
    "n_envs": 2,
    "methods": [{"ewc": {"strength": 1.0}}],
    "evaluation": {"every": 32, "episodes": 2},
}


@pytest.fixture(scope="module")
def hostile() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from soak import hostile

    yield hostile
    sys.path.pop(0)


@pytest.fixture(scope="module")
def mutations(hostile: Any) -> Any:
    from soak import mutations  # found where ``hostile`` was

    return mutations


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages, finished."""
    (folder,) = prepare(tmp_path_factory.mktemp("runs"), Scenario.model_validate(GIVEN))
    run_cell(folder, lambda progress: None)
    return folder.path


def code_of(call: Callable[[], object]) -> tuple[int, str]:
    """Return the exit code of a call and its text, or 1 and the traceback, as the command does."""
    try:
        call()
    except HoldfastError as error:
        return error.exit_code, str(error)
    except Exception:
        return 1, traceback.format_exc()
    return 0, ""


def evaluated(folder: Path) -> tuple[int, str]:
    return code_of(lambda: measure(folder, Plan(episodes=1)))


def reported(folder: Path, into: Path) -> tuple[int, str]:
    return code_of(lambda: report(folder, into=into))


def continued(folder: Path) -> tuple[int, str]:
    """Run the user's own scenario where the folder lies."""

    def go() -> None:
        (one,) = prepare(folder.parents[2], Scenario.model_validate(GIVEN))
        run_cell(one, lambda progress: None)

    code_of(lambda: RunFolder(folder).update(status="stopped"))
    return code_of(go)


@pytest.mark.thorough
def test_links_pipes_and_folders_in_the_place_of_files(
    hostile: Any, real: Path, tmp_path: Path
) -> None:
    """Neither read, nor written, cut or deleted through; each is named."""
    outside = hostile.Outside(tmp_path / "outside")
    for name in ("checkpoints", "scores.jsonl", "log.txt", "lock", "tb"):
        variants = [one for one in hostile.variants(real) if one[0].startswith(f"{name} is a ")]
        for number, (what, _, spoil) in enumerate(variants):
            folder = tmp_path / name / str(number) / Path(*real.parts[-3:])
            shutil.copytree(real, folder)
            spoil(folder, outside)
            code, text = continued(folder)
            assert code == 5, what
            assert str(folder / name) in text, what
    assert outside.changes() == []


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(4))
def test_readers_refuse_what_they_cannot_vouch_for(
    hostile: Any, real: Path, tmp_path: Path, part: int
) -> None:
    outside = hostile.Outside(tmp_path / "outside")
    variants = list(hostile.variants(real))
    assert len(variants) >= 75
    for number, (what, expected, spoil) in list(enumerate(variants))[part::12]:
        folder = tmp_path / str(number) / Path(*real.parts[-3:])
        shutil.copytree(real, folder)
        spoil(folder, outside)
        code, text = evaluated(folder)
        assert code == (5 if expected == "refused" else 0), (what, text)
    assert outside.changes() == []


@pytest.mark.slow
def test_the_whole_corpus(hostile: Any, real: Path, tmp_path: Path) -> None:
    outside = hostile.Outside(tmp_path / "outside")
    for name, folder, expected in hostile.corpus(real, tmp_path / "made", outside):
        code, text = evaluated(folder)
        assert code == (5 if expected == "refused" else 0), (name, text)
        code, text = reported(folder, tmp_path / "report")
        assert code in (0, 5), (name, text)
        code, text = continued(folder)
        assert code in (0, 2, 5), (name, text)
        shutil.rmtree(folder.parents[2])
    assert outside.changes() == []


def mutated(mutations: Any, real: Path, tmp_path: Path, seeds: range) -> None:
    files = sorted(p for p in real.rglob("*") if p.is_file() and p.suffix != ".holdfast")
    for seed in seeds:
        rng = random.Random(seed)  # no secret
        folder = tmp_path / str(seed) / Path(*real.parts[-3:])
        shutil.copytree(real, folder)
        victim = folder / rng.choice(files).relative_to(real)
        content = mutations.mutate(victim.read_bytes(), rng)
        if victim.parent.name.startswith("task-") and victim.name != "MANIFEST.json":
            mutations.put_member(victim.parent, victim.name, content)
        else:
            victim.write_bytes(content)
        tried = [evaluated(folder), reported(folder, tmp_path / "report")]
        if seed % 4 == 0:
            tried.append(continued(folder))
        for code, text in tried:
            assert code in (0, 2, 5), (seed, text)
        shutil.rmtree(tmp_path / str(seed))


@pytest.mark.thorough
def test_mutated_files_give_no_traceback(mutations: Any, real: Path, tmp_path: Path) -> None:
    mutated(mutations, real, tmp_path, range(6))


@pytest.mark.slow
def test_many_mutated_files_give_no_traceback(mutations: Any, real: Path, tmp_path: Path) -> None:
    mutated(mutations, real, tmp_path, range(6, 400))


def test_a_mutation_depends_on_its_seed_alone(mutations: Any, real: Path) -> None:
    content = (real / "run.json").read_bytes()
    one, same = (mutations.mutate(content, random.Random(3)) for _ in range(2))
    other = [mutations.mutate(content, random.Random(seed)) for seed in range(20)]
    assert one == same
    assert len(set(other)) > 15
    assert content not in other


def test_a_scenario_may_have_links_above_the_folder_that_is_named(
    real: Path, tmp_path: Path
) -> None:
    """The user's own ``runs`` may be a link; a scenario, a method or a cell below it may not."""
    (tmp_path / "mine").symlink_to(real.parents[2])
    inside = tmp_path / "mine" / Path(*real.parts[-3:])
    assert evaluated(inside)[0] == 0
    linked = tmp_path / "runs"
    (linked / "small").mkdir(parents=True)
    (linked / "small" / "ewc").symlink_to(real.parent)
    before = sorted(real.parent.rglob("*"))
    for overwrite in (False, True):
        code, text = code_of(
            lambda overwrite=overwrite: prepare(
                linked, Scenario.model_validate(GIVEN), overwrite=overwrite
            )
        )
        assert (code, "is a link to" in text) == (5, True)
    assert code_of(lambda: report(linked / "small"))[0] == 5
    assert sorted(real.parent.rglob("*")) == before
