import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import run_all

from holdfast.continual.run_folder.record import RunFolder
from holdfast.scenarios.schema.scenario import Scenario


def small(**keys: object) -> Scenario:
    """Two wirings of CartPole, 64 steps each."""
    given = {
        "name": "small",
        "tasks": [
            {"name": "plain", "env": "CartPole-v1", "steps": 64},
            {
                "name": "swapped",
                "env": "CartPole-v1",
                "steps": 64,
                "changes": {"action_map": [1, 0], "observation_mask": [0]},
            },
        ],
        "agent": {
            "algorithm": "ppo",
            "n_steps": 32,
            "batch_size": 32,
            "policy_kwargs": {"net_arch": [8]},
            "normalize": {"observations": "running"},
        },
        "methods": ["naive"],
        "seeds": [3],
        "evaluation": {"episodes": 3},
        "checkpoint": {"keep": "all"},
        "score": {"random": 0.0, "reference": 100.0},
    }
    return Scenario.model_validate(given | keys)


@pytest.fixture(scope="session")
def make_small() -> Callable[..., Scenario]:
    """Return ``small``."""
    return small


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A small run, to be read only."""
    (folder,) = run_all(small(), tmp_path_factory.mktemp("probed"))
    return folder


@pytest.fixture
def cell(trained: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of it, to be probed."""
    there = tmp_path / "small" / "naive" / "seed-3"
    shutil.copytree(trained.path, there)
    return RunFolder(there)
