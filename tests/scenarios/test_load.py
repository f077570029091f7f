from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import ScenarioError
from holdfast.scenarios import load as load_module
from holdfast.scenarios.load import load, load_resolved
from holdfast.scenarios.source.yaml_file import read

FULL = """\
description: Everything once.
tasks:
  - &base
    name: right
    env: CartPole-v1
    steps: 1e4
    kwargs: {sutton_barto_reward: true}
  - <<: *base
    name: left
    changes: {action_map: [1, 0], set: {gravity: 12.0}, action_delay: 1, dead_actuators: [0, thigh]}
    wrappers: [{frame_stack: 4}]
    score: success
stream: {order: [right, left, right], repeat: 2, max_tasks: 4}
n_envs: 8
agent:
  algorithm: ppo
  learning_rate: {linear: [3e-4, 0]}
  n_steps: 1e2
  normalize: {observations: running}
  policy_kwargs: {net_arch: [64, 64], activation: tanh}
methods: [naive, ewc: {strength: 10}, ewc: {strength: 100, kind: online}, [ewc, cloning]]
seeds: [0, 1]
evaluation: {every: 1000, episodes: 5, tasks: seen}
score: {random: 20, reference: 500}
"""


def test_load_reads_every_section(write) -> None:
    path = write(FULL)
    scenario = load(path)
    assert scenario.name == "demo"
    assert scenario.source == path
    assert scenario.folder == path.parent
    assert [task.steps for task in scenario.tasks] == [10_000, 10_000]
    assert scenario.tasks[1].kwargs == {"sutton_barto_reward": True}
    assert scenario.tasks[1].changes.dead_actuators == (0, "thigh")
    assert scenario.tasks[1].wrappers[0].arguments == {"n": 4}
    assert scenario.stream_tasks == (0, 1, 0, 0, 1, 0)
    assert scenario.total_steps == 60_000
    assert scenario.id_width == 4
    assert scenario.agent.arguments["n_steps"] == 100
    assert isinstance(scenario.agent.arguments["n_steps"], int)
    assert scenario.agent.arguments["learning_rate"] == {"linear": [3e-4, 0]}
    assert scenario.score_of(1) == "success"
    assert scenario.score_of(0) == scenario.score


def test_checks_change_nothing_and_make_one_model(write, monkeypatch) -> None:
    source = read((FULL + "sweep: {agent.n_epochs: [1e1]}\n").encode(), "demo.yaml")
    before = copy.deepcopy(source.data)
    checked = load_module._check_all(source, Path(), "demo")
    assert source.data == before
    assert isinstance(source.data["agent"]["n_steps"], float)
    assert checked.findings == []
    made: list[object] = []
    real = load_module.Scenario.model_validate
    monkeypatch.setattr(
        load_module.Scenario, "model_validate", lambda data: made.append(data) or real(data)
    )
    assert load(write(FULL)).agent.arguments["n_steps"] == 100
    assert len(made) == 1


def test_resolved_yaml_loads_back_equal(write) -> None:
    scenario = load(write(FULL))
    text = scenario.to_yaml()
    again = load(write(text, "again.yaml"))
    assert again == scenario
    assert again.to_yaml() == text
    assert load_resolved(write(text, "again.yaml")) == scenario


def test_load_resolved_needs_nothing_installed(write, tmp_path: Path) -> None:
    text = load(write()).to_yaml().replace("CartPole-v1", "gone:Away-v0")
    scenario = load_resolved(write(text), place=tmp_path / "elsewhere")
    assert scenario.tasks[0].env == "gone:Away-v0"
    assert (scenario.folder, scenario.place) == (None, tmp_path / "elsewhere")
    with pytest.raises(ScenarioError, match="missing"):
        load_resolved(write("name: half\n"))


@pytest.mark.thorough
@pytest.mark.parametrize("text", [FULL, None])
def test_load_is_fast_and_imports_neither_torch_nor_avalanche(write, text) -> None:
    path = write(text) if text else write()
    code = f"""
import json, sys, time
start = time.process_time()
from holdfast.scenarios.load import load
load({str(path)!r})
seconds = time.process_time() - start
print(json.dumps([seconds, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""

    def processor_s() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        seconds, modules = json.loads(done.stdout)
        assert not {"torch", "stable_baselines3", "sb3_contrib", "avalanche"} & set(modules)
        return float(seconds)

    assert any(processor_s() < 1.0 for _ in range(3))  # other work shares caches, too


def test_loading_runs_nothing_of_the_users_own_files(write, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym\nraise SystemExit('imported')\nclass Reach(gym.Env):\n    pass\n"
    )
    path = write("tasks: [{name: a, env: 'mine:Reach', steps: 10}]\nagent: {algorithm: ppo}\n")
    before = list(sys.path)
    assert load(path).tasks[0].env == "mine:Reach"
    assert "mine" not in sys.modules
    assert sys.path == before


def test_fault_1_unknown_key_has_place_caret_and_nearest_name(write, problems) -> None:
    found = problems(
        """\
        tasks: [{name: a, env: CartPole-v1, steps: 100}]
        agent:
          algorithm: ppo
          lerning_rate: 1e-3
        """
    )
    assert len(found) == 1
    text = str(found[0])
    first, line, caret = text.split("\n")
    assert first.endswith(
        "demo.yaml:4:3: agent.lerning_rate: 'ppo' has no argument 'lerning_rate'; "
        "did you mean 'learning_rate'?"
    )
    assert line == "      lerning_rate: 1e-3"
    assert line.index("lerning") == caret.index("^")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("taks: 3", "unknown key; did you mean 'tasks'?"),
        ("seed: 3", "unknown key; did you mean 'seeds'?"),
        ("lr: 3e-4", "unknown key here; 'learning_rate' belongs under agent:"),
        ("gamma: 0.9", "unknown key here; it belongs under agent:"),
        ("episodes: 3", "unknown key here; it belongs under evaluation:"),
        ("task_id: hidden", "unknown key here; it belongs under stream:"),
        ("steps: 3", "unknown key here; it belongs in each task"),
        ("stream: {n_envs: 3}", "unknown key here; it belongs at the top level"),
        ("stream: {taskid: hidden}", "unknown key; did you mean 'task_id'?"),
        ("evaluation: {eval_freq: 3}", "unknown key; did you mean 'every'?"),
    ],
)
def test_unknown_keys_say_where_they_belong(one, extra: str, message: str) -> None:
    assert message in one(extra=extra).message


def test_fault_2_duplicate_key(one) -> None:
    problem = one(extra="n_envs: 1\nn_envs: 2\n")
    assert problem.message == "the key is there twice, in lines 5 and 6"
    assert (problem.line, problem.column) == (6, 1)


def test_fault_3_numbers_and_words(write, one) -> None:
    text = "agent.learning_rate=1e-3", "tasks[0].steps=1e5"
    scenario = load(write(), text)
    assert scenario.agent.arguments["learning_rate"] == 0.001
    assert scenario.tasks[0].steps == 100_000
    assert "'no' is not a device; write cpu" in one("agent.device=no").message
    assert "got the text 'yes'; write true" in one("evaluation.deterministic=yes").message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.gamma=1.5", "must be from 0 to 1, got 1.5"),
        ("tasks[0].steps=0", "must be greater than 0, got 0"),
        ("tasks[0].steps=-5", "must be greater than 0, got -5"),
        ("tasks[0].steps=1.5", "expected a whole number, got 1.5"),
        ("tasks[0].steps=100k", "expected a whole number, got the text '100k'; write 100000"),
        ("tasks[0].steps=1,000", "write 1000"),
        ("tasks[0].steps='100'", "write 100 without quotes"),
        ("tasks[0].steps=true", "expected a whole number, got true"),
        ("tasks[0].steps=", "expected a whole number, got nothing"),
        ("n_envs=0", "must be greater than 0, got 0"),
        ("tasks=[]", "must not be empty"),
        ("methods=[]", "must not be empty"),
        ("methods=ewc", "expected a list, got the text 'ewc'; write [naive, ewc]"),
        ("seeds=[]", "must not be empty"),
        ("seeds=3", "expected a list, got 3; write [3] for that seed, or [0, 1, 2] for three"),
        ("seeds=[1099511627776]", "must be at most 4294967295 (2**32 - 1), got 1099511627776"),
        ("seeds=[-1]", "must be at least 0, got -1"),
        ("seeds=[1, 1]", "1 is listed twice"),
        ("name=my demo", "'my demo' is not a name"),
        ("name=../up", "is not a name"),
        ("name=3", "expected text, got 3"),
        ("on_nan=ignore", "'ignore' is not one of error, truncate"),
        ("score=sucess", "expected a mapping or success, got the text 'sucess'"),
        ("score={random: 1, reference: 1}", "must differ from random"),
        ("score={random: .inf, reference: 1}", "must be a finite number, got inf"),
        ("score={random: .nan, reference: 1}", "'.nan' is not a number"),
        ("score={random: 1}", "missing: Return of a trained policy"),
        ("tasks[0].changes.reward_scale=0", "must not be 0"),
        ("tasks[0].changes.observation_permutation=[0, 2]", "must hold every index from 0 to 1"),
        ("tasks[0].changes.action_gain=[1, x]", "expected a number, got the text 'x'"),
        ("tasks[0].changes.gravity=9", "set with set: {gravity: value}"),
    ],
)
def test_fault_5_wrong_type_or_range(one, override: str, message: str) -> None:
    problem = one(override)
    assert message in problem.message
    assert problem.file == f"override {override}"


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("name: x\n", ["tasks", "agent"]),
        ("tasks: [CartPole-v1]\nagent: ppo\n", ["tasks[0]", "agent"]),
        ("- a\n- b\n", [""]),
        ("tasks: {a: 1}\nagent: {}\n", ["tasks", "agent.algorithm"]),
        ("tasks:\nagent:\n", ["tasks", "agent"]),
        ("3: x\ntasks: []\nagent: {algorithm: ppo}\n", ["[3]", "tasks"]),
    ],
)
def test_fault_5_wrong_shapes(problems, text: str, paths: list[str]) -> None:
    assert sorted(problem.path for problem in problems(text)) == sorted(paths)


def test_fault_5_every_mistake_at_once_in_the_order_of_the_file(problems) -> None:
    found = problems(
        """\
        tasks:
          - name: balance
            env: CartPol-v1
            steps: 100k
          - name: balance
            env: CartPole-v1
            steps: 1001
            exclusive: yes
          - env: HalfCheetah-v2
            steps: 0
        n_envs: 4
        lr: 3e-4
        stream: {order: [balanc], task_id: hiden, max_tasks: 2}
        agent:
          algorithm: PPO
          gama: 0.9
        methods:
          - EWC
          - ewc:
            strength: 10
          - replay
          - [naive, cloning]
        seeds: [4294967296]
        """
    )
    assert [(problem.line, problem.path) for problem in found] == [
        (3, "tasks[0].env"),
        (4, "tasks[0].steps"),
        (5, "tasks[1].name"),
        (7, "tasks[1].steps"),
        (8, "tasks[1].exclusive"),
        (9, "tasks[2].name"),
        (9, "tasks[2].env"),
        (10, "tasks[2].steps"),
        (12, "lr"),
        (13, "stream.order[0]"),
        (13, "stream.task_id"),
        (13, "stream.max_tasks"),
        (15, "agent.algorithm"),
        (16, "agent.gama"),
        (18, "methods[0]"),
        (19, "methods[1]"),
        (21, "methods[2]"),
        (22, "methods[3][0]"),
        (23, "seeds[0]"),
    ]
    for problem in found:
        assert problem.source_line, problem
        assert problem.source_line[problem.column - 1 :].strip(), problem


def test_problems_in_the_file_and_in_overrides_come_together(problems) -> None:
    found = problems("", "agent.gama=0.9", extra="n_envs: 0\n")
    assert [problem.path for problem in found] == ["n_envs", "agent.gama"]
    assert str(found[1]) == (
        "override agent.gama=0.9: agent.gama: 'ppo' has no argument 'gama'; did you mean 'gamma'?"
    )


def test_fault_36_budgets_are_exact(one, write) -> None:
    problem = one("n_envs=3", "tasks[1].steps=999")
    assert problem.path == "tasks[0].steps"
    assert problem.message == (
        "1000 is not a multiple of n_envs (3), so it cannot be exact; write 999 (or 1002)"
    )
    assert one("n_envs=600", "tasks[1].steps=600").message.endswith("write 1200 (or 600)")
    assert one("n_envs=1500", "tasks[1].steps=1500").message.endswith("write 1500")
    assert load(write(), ["n_envs=8"]).n_envs == 8


def test_fault_37_tag_in_a_scenario(problems, tmp_path: Path) -> None:
    trap = tmp_path / "hacked"
    found = problems("", extra=f"description: !!python/object/apply:os.mkdir ['{trap}']\n")
    assert [problem.path for problem in found] == ["description"]
    assert "a scenario holds plain values, never code" in found[0].message
    assert not trap.exists()


@pytest.mark.parametrize(
    "root", ["os", "subprocess", "builtins", "shutil", "ctypes", "pickle", "sys"]
)
def test_fault_37_modules_of_python_are_refused_everywhere(problems, root: str) -> None:
    text = f"""\
    tasks: [{{name: a, env: "{root}:system", steps: 10, wrappers: ["{root}:x"]}}]
    agent: {{algorithm: ppo, policy_kwargs: {{features_extractor: "{root}.path:x"}}}}
    methods: ["{root}:system"]
    """
    found = problems(text)
    assert [problem.path for problem in found] == [
        "tasks[0].env",
        "tasks[0].wrappers[0]",
        "agent.policy_kwargs.features_extractor",
        "methods[0]",
    ]
    assert all(f"'{root}' is part of Python" in problem.message for problem in found)
    assert f"'{root}' is part" in problems("", f"agent.algorithm={root}:x")[0].message


@pytest.mark.parametrize(
    "target", ["a:b:c", "a:_hidden", "a:b.c", ":b", "a:", "__main__:x", "a b:c"]
)
def test_fault_37_only_a_module_and_a_name(one, target: str) -> None:
    problem = one(f"methods=['{target}']")
    assert "module:Name" in problem.message or "one class" in problem.message


def test_missing_file_and_folder(tmp_path: Path, write) -> None:
    write(name="quickstart.yaml")
    with pytest.raises(ScenarioError, match=r"no such file; did you mean '.*quickstart\.yaml'"):
        load(tmp_path / "quikstart.yaml")
    with pytest.raises(ScenarioError, match="is a folder"):
        load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(write) -> None:
    path = write()
    path.chmod(0)
    with pytest.raises(ScenarioError, match="cannot be read"):
        load(path)


def test_name_is_made_from_the_file(write) -> None:
    assert load(write(name="my demo (2).yaml")).name == "my-demo-2"
    assert load(write(), ["name=other"]).name == "other"


def test_init_must_be_there(one, write, tmp_path: Path) -> None:
    assert "there is no" in one("agent.init=gone").message
    run = tmp_path / "runs" / "ewc" / "seed-0"
    (run / "checkpoints").mkdir(parents=True)
    (tmp_path / "model.zip").touch()
    (tmp_path / "model.pt").touch()
    assert "a run is in it: runs/ewc/seed-0" in one("agent.init=runs").message
    assert "neither a run folder nor" in one("agent.init=model.pt").message
    assert load(write(), ["agent.init=runs/ewc/seed-0"]).agent.init == "runs/ewc/seed-0"
    assert load(write(), ["agent.init=model.zip"]).agent.init == "model.zip"
