"""Streams take three files of Avalanche, and leave it whole for whoever imports the rest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.continual.streams.avalanche_core import NEEDED, load_scenarios_alone
from holdfast.continual.streams.task_stream import CLScenario

RELAYS = Path(__file__).parents[2] / "helpers"

# Builds a single agent under several methods, and a team.
BUILT = """
import json, pickle, sys
import holdfast
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.training.preflight import build
from holdfast.scenarios.schema.scenario import Scenario

HEAVY = "avalanche torchvision torchmetrics wandb qpsolvers jax gdown matplotlib pytorchcv".split()
build(holdfast.load("quickstart"))
team = {"algorithm": "ppo", "n_steps": 32, "batch_size": 32, "policies": "shared"}
task = {"name": "t", "env": "relays:Relay", "steps": 64}
build(Scenario.model_validate({"tasks": [task], "agent": team, "name": "team"}))
experience, _ = kind_of(holdfast.load("quickstart")).build(0)
told = {"heavy": [name for name in HEAVY if name in sys.modules]}
told["found"] = sorted(name for name in sys.modules if name.startswith("avalanche"))
"""
# Then all of Avalanche: what learns from data sets is built, and Avalanche itself trains.
WHOLE = """
stored = pickle.dumps(type(experience).__mro__)  # which imports what classes are named after
import avalanche, torch, torchvision, wandb
from avalanche.benchmarks import CLExperience, CLScenario
from avalanche.benchmarks.utils.classification_dataset import (
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.training.plugins import EWCPlugin
from avalanche.training.supervised import Naive

told["is"] = [isinstance(experience, CLExperience), CLExperience in pickle.loads(stored)]
told["real"] = [torchvision.ops.nms.__name__, wandb.__version__ != "", torchvision.__spec__.origin]

build(holdfast.load("split-digits"))
points = [
    TaskAwareSupervisedClassificationDataset(
        torch.utils.data.TensorDataset(torch.eye(4), torch.arange(4)),
        data_attributes=[
            avalanche.benchmarks.utils.DataAttribute(list(range(4)), "targets"),
            avalanche.benchmarks.utils.TaskLabels([0] * 4),
        ],
    )
    for _ in range(2)
]
model = torch.nn.Linear(4, 4)
naive = Naive(
    model=model,
    optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
    criterion=torch.nn.CrossEntropyLoss(),
    train_epochs=40,
    plugins=[EWCPlugin(0.1)],
    evaluator=None,
)
for part in avalanche.benchmarks.benchmark_from_datasets(train=points).train_stream:
    naive.train(part)
told["learned"] = model(torch.eye(4)).argmax(1).tolist()
"""


def told(script: str, folder: Path) -> Any:
    """Return what a script prints as JSON, in a process of its own."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(folder)!r})\n{script}\nprint(json.dumps(told))",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_streams_import_three_files_of_avalanche_and_nothing_heavy() -> None:
    said = told(BUILT, RELAYS)
    assert said["heavy"] == []
    assert said["found"] == sorted(NEEDED)


@pytest.mark.slow
def test_all_of_avalanche_works_afterwards() -> None:
    said = told(BUILT + WHOLE, RELAYS)
    assert said["is"] == [True, True]
    assert said["real"][:2] == ["nms", True]
    assert said["learned"] == [0, 1, 2, 3]


def test_there_is_one_of_each_class_whatever_was_imported_first() -> None:
    import avalanche  # here: it takes seconds

    assert avalanche.benchmarks.CLScenario is CLScenario
    for name in NEEDED:
        bound: Any = avalanche
        for part in name.split(".")[1:]:
            bound = getattr(bound, part)
        assert bound is sys.modules[name]
    found: dict[tuple[str, str], set[type]] = {}
    for name in [name for name in sys.modules if name.partition(".")[0] == "avalanche"]:
        for value in vars(sys.modules[name]).values():
            if isinstance(value, type) and value.__module__.startswith("avalanche."):
                found.setdefault((value.__module__, value.__qualname__), set()).add(value)
    assert len(found) > 300
    assert [name for name, classes in found.items() if len(classes) > 1] == []
    before = {name: sys.modules[name] for name in NEEDED}
    load_scenarios_alone()
    assert {name: sys.modules[name] for name in NEEDED} == before


# Other versions of Avalanche, as small as may be.
_SCENARIOS, _OTHER = "scenarios/generic_scenario", "other"
OTHERS: dict[str, tuple[dict[str, str], str]] = {
    "its file imports more of it": (
        {
            _SCENARIOS: "from avalanche.benchmarks.other import Base\nclass Made(Base): pass\n",
            _OTHER: "class Base: pass\n",
            "__init__": "from .scenarios.generic_scenario import Made as Seen\n",
        },
        "one",
    ),
    "it has no such file": ({"scenarios/__init__": "class Made: pass\n"}, "none"),
    "its file fails": ({_SCENARIOS: "raise ImportError('no such numpy')\n"}, "no such numpy"),
}
OTHER_SCRIPT = """
import json
try:
    import holdfast.continual.streams
    from avalanche.benchmarks.scenarios.generic_scenario import Made
    import avalanche
    told = "one" if avalanche.benchmarks.Seen is Made else "two"
except ModuleNotFoundError as error:
    told = "none" if "generic_scenario" in str(error) else str(error)
except ImportError as error:
    told = str(error)
"""


@pytest.mark.parametrize("version", OTHERS)
def test_another_version_is_imported_as_it_wants_to_be(tmp_path: Path, version: str) -> None:
    files, said = OTHERS[version]
    root = tmp_path / "avalanche" / "benchmarks"
    for below in (root.parent, root, root / "scenarios", root / "utils"):
        below.mkdir(parents=True, exist_ok=True)
        (below / "__init__.py").touch()
    (root.parent / "__init__.py").write_text("from avalanche import benchmarks\n")
    (root / "utils" / "dataset_utils.py").touch()
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    assert told(OTHER_SCRIPT, tmp_path) == said
