"""Exported policies do what the policy does, to rounding, whatever it is shown and takes."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import run_all
from team_runs import run as run_team
from team_runs import team_scenario

from holdfast.continual.jobs.run_handle import open_run
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.policies.exportable import Exportable
from holdfast.continual.policies.restore import Restored
from holdfast.continual.run_folder.record import RunFolder
from holdfast.continual.tools.export import METADATA, export
from holdfast.envs.make import stream_spaces
from holdfast.errors import MissingExtra, UsageError
from holdfast.scenarios.schema.scenario import Scenario

ON_POLICY = {"n_steps": 16, "batch_size": 16}
OFF_POLICY = {"buffer_size": 100}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: environment, agent, other keys of the scenario
    "ppo": ({}, {"algorithm": "ppo", **ON_POLICY}, {}),
    "a2c of boxes, normalised": (
        {"taken": "box"},
        {"algorithm": "a2c", "normalize": {"observations": "running", "clip": 1.0}},
        {},
    ),
    "ppo of a dict, normalised": (
        {"shown": "dict", "taken": "multidiscrete"},
        {"algorithm": "ppo", "normalize": {"observations": "running"}, **ON_POLICY},
        {},
    ),
    "ppo of pictures": ({"shown": "picture", "taken": "multibinary"}, {"algorithm": "ppo"}, {}),
    "pictures alone": (
        {"shown": "picture"},
        {"algorithm": "dqn", **OFF_POLICY},
        {"stream": {"task_id": "hidden"}},
    ),
    "ppo with a head per task": (
        {"taken": "box"},
        {"algorithm": "ppo", **ON_POLICY},
        {"stream": {"task_id": "heads"}},
    ),
    "ppo with gSDE": ({"taken": "box"}, {"algorithm": "ppo", "use_sde": True, **ON_POLICY}, {}),
    "maskable_ppo": ({"taken": "masked"}, {"algorithm": "maskable_ppo", **ON_POLICY}, {}),
    "trpo": ({"taken": "box"}, {"algorithm": "trpo", "n_steps": 16, "batch_size": 16}, {}),
    "dqn of numbers": ({"shown": "number"}, {"algorithm": "dqn", **OFF_POLICY}, {}),
    "qrdqn": ({}, {"algorithm": "qrdqn", **OFF_POLICY}, {}),
    "sac with a head per task": (
        {"taken": "box"},
        {"algorithm": "sac", **OFF_POLICY},
        {"stream": {"task_id": "heads"}},
    ),
    "td3": ({"taken": "box"}, {"algorithm": "td3", **OFF_POLICY}, {}),
    "ddpg": ({"taken": "box"}, {"algorithm": "ddpg", **OFF_POLICY}, {}),
    "tqc": ({"taken": "box"}, {"algorithm": "tqc", **OFF_POLICY}, {}),
    "crossq": ({"taken": "box"}, {"algorithm": "crossq", **OFF_POLICY}, {}),
    "stream_q": ({}, {"algorithm": "stream_q"}, {}),
    "stream_ac": ({}, {"algorithm": "stream_ac"}, {}),
    "stream_ac of boxes": ({"taken": "box"}, {"algorithm": "stream_ac"}, {}),
}


def scenario(agent: dict[str, Any], *worlds: dict[str, Any], **keys: Any) -> Scenario:
    tasks = [
        {"name": f"t{i}", "env": "shapes:Shapes", "kwargs": kwargs, "steps": 32}
        for i, kwargs in enumerate(worlds)
    ]
    return Scenario.model_validate({"tasks": tasks, "agent": agent, **keys})


@contextmanager
def of_new_agent(made: Scenario, task: int = 0) -> Iterator[Exportable]:
    """Give what is exported of an agent with random weights and statistics."""
    spaces = stream_spaces(made)
    kind = kind_of(made)
    agent: Any = kind.agent()
    experience = kind.stream(0, spaces).train_stream[0]
    for method in kind.methods():
        method.pre_adapt(agent.doors(method), experience.train())
    agent.start(experience)
    agent.close()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if agent.normalizer is not None:
        agent.normalizer.load_tensors(
            {n: torch.rand_like(t) + 0.5 for n, t in agent.normalizer.tensors().items()}
        )
    with kind.export(Restored(made, spaces, agent), task, 0) as (one,):
        yield one


def gap(one: Exportable) -> float:
    with torch.no_grad():
        actions = one.module(*one.arguments(len(one.actions))).numpy()
    assert actions.shape == one.actions.shape
    assert len(np.unique(one.actions.reshape(len(actions), -1), axis=0)) > 1
    return float(np.abs(actions.astype(float) - one.actions.astype(float)).max())


@pytest.mark.parametrize("case", CASES)
def test_the_module_does_what_the_policy_does(case: str) -> None:
    world, agent, keys = CASES[case]
    with of_new_agent(scenario(agent, world, world, **keys), task=0) as one:
        assert len(one.actions) == 256
        assert gap(one) < 1e-4


@pytest.mark.parametrize(
    ("algorithm", "small", "large"),
    [
        ("maskable_ppo", {"taken": "masked", "size": 2, "count": 3}, {"taken": "masked"}),
        ("ppo", {"taken": "box", "size": 2, "count": 1, "bound": 0.5}, {"taken": "box"}),
    ],
)
def test_what_is_padded_is_padded_inside(
    algorithm: str, small: dict[str, Any], large: dict[str, Any]
) -> None:
    made = scenario(
        {"algorithm": algorithm, **ON_POLICY},
        small,
        large,
        spaces={"observation": "pad", "action": "pad"},
    )
    with of_new_agent(made, task=0) as one:
        assert one.inputs[0].shape == (256, 2)
        assert gap(one) < 1e-4


@pytest.mark.slow
def test_torch_export_of_a_dict(tmp_path: Path) -> None:
    made = scenario(
        {"algorithm": "ppo", "normalize": {"observations": "running"}, **ON_POLICY},
        {"shown": "dict", "taken": "box"},
        evaluation={"episodes": 1},
    )
    (folder,) = run_all(made, tmp_path / "runs")
    before = contents(folder)
    (made_file,) = export(folder.path, "torch-export", output=tmp_path / "policy.pt2")
    assert made_file.path == tmp_path / "policy.pt2"
    assert made_file.difference < 1e-5
    assert 0 < made_file.latency_ms < 1000
    assert contents(folder) == before
    extra = {METADATA: ""}
    program = torch.export.load(made_file.path, extra_files=extra)
    about = json.loads(extra[METADATA])
    assert about["inputs"]["camera"] == "uint8[batch, 36, 36, 3]"
    acting: Any = open_run(folder.path).agent()
    env = acting.make_env()
    observation, _ = env.reset(seed=5)
    batch = {key: torch.as_tensor(np.asarray(observation[key]))[None] for key in about["inputs"]}
    np.testing.assert_allclose(
        program.module()(batch)[0].numpy(), acting.act(observation), atol=1e-5
    )


def contents(folder: RunFolder) -> dict[str, bytes]:
    files = [file for file in folder.path.rglob("*") if file.is_file()]
    return {str(file): file.read_bytes() for file in files}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "case",
    [
        "a2c of boxes, normalised",
        *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if "a2c" not in case),
    ],
)
def test_onnxruntime_does_what_the_policy_does(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from holdfast.continual.tools import export as exporting

    world, agent, keys = CASES[case]
    with of_new_agent(scenario(agent, world, world, **keys)) as one:
        made = exporting._export(one, "onnx", tmp_path / "deep" / "policy.onnx", {"task": "t0"})
        session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
        found = session.run(["action"], dict(zip(one.names, one.inputs, strict=True)))[0]
        np.testing.assert_allclose(found, one.actions, atol=1e-5)
        told = session.get_modelmeta().custom_metadata_map
        assert json.loads(told[METADATA]) == {"task": "t0"}
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["policy.onnx"]


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["progressive", pytest.param("packnet", marks=pytest.mark.slow)])
def test_each_task_is_exported_in_its_own_view(run: Callable[..., RunFolder], method: str) -> None:
    keys = {"stream": {"task_count": "known"}}
    folder = run("ppo", method, tasks=2, steps=64, **keys)
    actions = {}
    for task in ("t0", "t1"):
        (made,) = export(folder.path, "torch-export", task=task)
        assert made.path == folder.path / "exports" / f"{task}.pt2"
        module = torch.export.load(made.path).module()
        seen = torch.as_tensor(np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32))
        actions[task] = module(seen).numpy()
        acting: Any = open_run(folder.path).agent(task)
        assert [acting.act(row) for row in seen.numpy()] == actions[task].tolist()
    assert (actions["t0"] != actions["t1"]).any()


@pytest.mark.thorough
def test_a_team_gives_a_file_for_each_group(tmp_path: Path) -> None:
    groups = {"front": ["first"], "rest": ["second", "third"]}
    made = team_scenario("ppo", {"env": "relays:Relay"}, agent={"policies": groups})
    folder = run_team(tmp_path, made)
    files = list(export(folder.path, "torch-export"))
    assert [file.path.name for file in files] == [
        f"{made.tasks[0].name}-front.pt2",
        f"{made.tasks[0].name}-rest.pt2",
    ]
    assert all(file.difference == 0 for file in files)


@pytest.mark.thorough
def test_a_classifier_of_each_task_is_exported(tmp_path: Path) -> None:
    tasks = [
        {"name": f"t{i}", "benchmark": "split-digits", "experience": i, "steps": 20}
        for i in range(2)
    ]
    keys = {"stream": {"task_id": "heads"}, "evaluation": {"episodes": 1}}
    made = Scenario.model_validate({"tasks": tasks, "agent": {"algorithm": "supervised"}, **keys})
    (folder,) = run_all(made, tmp_path / "runs")
    (file,) = export(folder.path, "torch-export", task="t0", output=tmp_path)
    assert file.path == tmp_path / "t0.pt2"
    assert file.difference == 0
    shape = file.inputs["observation"].partition("batch, ")[2].rstrip("]").split(", ")
    inputs = torch.rand(30, *map(int, shape))
    classes = torch.export.load(file.path).module()(inputs)
    acting: Any = open_run(folder.path).agent("t0")
    assert classes.tolist() == acting.act(inputs).tolist()


@pytest.mark.thorough
def test_what_has_no_such_form_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    made = scenario(
        {"algorithm": "recurrent_ppo", **ON_POLICY}, {"taken": "box"}, evaluation={"episodes": 1}
    )
    (folder,) = run_all(made, tmp_path / "runs")
    with pytest.raises(UsageError, match=r"'recurrent_ppo' cannot be exported.*keeps from step"):
        list(export(folder.path, "torch-export"))
    with pytest.raises(UsageError, match="no task 'tt'"):
        list(export(folder.path, "torch-export", task="tt"))
    assert not (folder.path / "exports").exists()


@pytest.mark.thorough
def test_a_file_that_differs_is_not_kept(tmp_path: Path) -> None:
    from holdfast.continual.tools import export as exporting

    made = scenario({"algorithm": "a2c"}, {"taken": "box"})
    with of_new_agent(made) as one:
        one.actions = one.actions + 0.01
        with pytest.raises(UsageError, match=r"differs from the policy by 0\.01 on 256"):
            exporting._export(one, "torch-export", tmp_path / "policy.pt2", {})
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    monkeypatch.setitem(__import__("sys").modules, "onnx", __import__("json"))
    with pytest.raises(MissingExtra, match=r"needs the package 'onnxscript'.*holdfast\[onnx\]"):
        list(export(tmp_path, "onnx"))


def test_names_from_an_environment_are_escaped() -> None:
    """ONNX's are identifiers, and no group's name leads out of the folder."""
    from types import SimpleNamespace

    from holdfast.continual.tools import export as exporting

    one: Any = SimpleNamespace(names=("a b", "a.b", "1x", "ok", "../x"))
    assert exporting._onnx_names(one) == ["a_b", "a_b_", "_1x", "ok", "___x"]
    place = exporting._place(Path("runs"), Path("out"), "t0", "../../evil", ".onnx", 2)
    assert place == Path("out/t0-evil.onnx")
