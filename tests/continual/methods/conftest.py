from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load, save
from torch import Tensor

from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.kinds.kind import kind_of
from holdfast.continual.loop import run_stream
from holdfast.continual.method import Method
from holdfast.continual.streams.task_stream import TaskExperience, make_stream
from holdfast.errors import ScenarioError
from holdfast.scenarios.load import load as load_scenario
from holdfast.scenarios.schema.scenario import Scenario

SMALL = {"policy_kwargs": {"net_arch": [8, 8]}}
OFF_POLICY = SMALL | {"learning_starts": 16, "batch_size": 16, "buffer_size": 200, "train_freq": 2}
WORLDS: dict[str, Any] = {
    "ppo": ("CartPole-v1", SMALL | {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "ppo-box": ("Pendulum-v1", SMALL | {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
    "a2c": ("CartPole-v1", SMALL),
    "dqn": ("CartPole-v1", OFF_POLICY | {"target_update_interval": 32}),
    "sac": ("Pendulum-v1", OFF_POLICY),
    "td3": ("Pendulum-v1", OFF_POLICY),
    "crossq": ("Pendulum-v1", OFF_POLICY),
}


CHOOSING = ("test_contract.py", "test_engines.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Try each method on one algorithm every time, PPO where it can; on others when slow.

    Some choose for themselves.
    """
    items = [item for item in items if Path(__file__).parent in item.path.parents]
    tried = {(item.path, item.name.partition("[")[0], w) for item in items for w in _worlds(item)}
    for item in items:
        test = (item.path, item.name.partition("[")[0])
        first = next((world for world in WORLDS if (*test, world) in tried), None)
        if item.path.name not in CHOOSING and any(w != first for w in _worlds(item)):
            item.add_marker(pytest.mark.slow)


def _worlds(item: pytest.Item) -> list[str]:
    return [value for value in _arguments(item) if value in WORLDS]


def _arguments(item: pytest.Item) -> list[str]:
    given: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return [value for value in given.values() if isinstance(value, str)]


@pytest.fixture
def train() -> Callable[..., StableBaselinesAgent]:
    """Train a small agent through the stream as the loop does, without measuring it."""

    def through_the_stream(
        world: str,
        build: Callable[[], Sequence[Method]] = tuple,
        *,
        tasks: int = 3,
        steps: int = 64,
        restart_after: int | None = None,
        watch: Callable[[StableBaselinesAgent, TaskExperience], Any] = lambda agent, task: None,
        agent: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        cost: dict[str, Any] | None = None,
        **keys: Any,
    ) -> StableBaselinesAgent:
        """Return the agent; ``restart_after`` saves, forgets and loads everything after a task.

        ``watch`` is called after each task, once its methods are done.
        """
        env, arguments = WORLDS[world]
        opposite = {"action_map": [1, 0]} if env == "CartPole-v1" else {"action_gain": -1.0}
        changed = [(opposite if i % 2 else {}) | (changes or {}) for i in range(tasks)]
        given: dict[str, Any] = {
            "tasks": [
                {"name": f"t{i}", "env": env, "steps": steps, "changes": changed[i], "cost": cost}
                for i in range(tasks)
            ],
            "agent": {"algorithm": world.partition("-")[0], **arguments, **(agent or {})},
            "n_envs": 2,
        }
        scenario = Scenario.model_validate(given | keys)
        learner, methods = StableBaselinesAgent(scenario), list(build())
        for experience in make_stream(scenario, 0).train_stream:
            run_stream([experience], learner, methods, Silent(partial(watch, learner)))
            if experience.stage == restart_after:
                files = {name: _saved(tensors) for name, tensors in learner.files().items()}
                states = [_saved(method.state()) for method in methods]
                learner, methods = StableBaselinesAgent(scenario), list(build())
                learner.load_files(files)
                for method, state in zip(methods, states, strict=True):
                    method.load_state(learner.doors(method), state)
        return learner

    return through_the_stream


class Silent:
    """A journal that writes nothing down; ``finished`` is told of every task's end."""

    def __init__(self, finished: Callable[[Any], Any] = lambda experience: None) -> None:
        self.finished = finished

    def log(self, scalars: Any, step: int, /) -> None: ...

    def before_learning(self) -> None: ...

    def watch(self, experience: Any) -> Callable[[int], None]:
        return lambda step: None

    def pauses(self, experience: TaskExperience, told: TaskExperience) -> None: ...

    def learned(self) -> None: ...


def _saved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors as they come back from a checkpoint."""
    return load(save({name: tensor.contiguous() for name, tensor in tensors.items()}))


@pytest.fixture
def same() -> Callable[[StableBaselinesAgent, StableBaselinesAgent], None]:
    """Assert that two agents have the same policy, bit for bit."""

    def compare(one: StableBaselinesAgent, other: StableBaselinesAgent) -> None:
        ours, theirs = one.policy.state_dict(), other.policy.state_dict()
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not ours[name].equal(theirs[name])] == []

    return compare


@pytest.fixture
def learn() -> Callable[..., Iterator[tuple[StableBaselinesAgent, TaskExperience]]]:
    """Train through tasks under one method that is told all; yields after each task."""

    def through_the_stream(
        world: str,
        method: Method,
        *,
        tasks: int = 4,
        agent: dict[str, Any] | None = None,
        stream: dict[str, Any] | None = None,
    ) -> Iterator[tuple[StableBaselinesAgent, TaskExperience]]:
        env, arguments = WORLDS[world]
        scenario = Scenario.model_validate(
            {
                "tasks": [{"name": f"t{i}", "env": env, "steps": 128} for i in range(tasks)],
                "stream": {"task_count": "known", **(stream or {})},
                "agent": {"algorithm": world.partition("-")[0], **arguments, **(agent or {})},
                "n_envs": 2,
            }
        )
        learner = StableBaselinesAgent(scenario)
        for experience in make_stream(scenario, 0).train_stream:
            run_stream([experience], learner, [method], Silent())
            yield learner, experience

    return through_the_stream


@pytest.fixture
def check_old_policies_stay(learn: Any) -> Callable[..., None]:
    """Assert that deterministic actions in a task are the same to the bit after three more."""

    def check(world: str, method: Method, task_id: str = "observed", **agent: Any) -> None:
        agent = {"normalize": {"observations": "running"}, **agent}
        seen = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
        said: dict[int, Any] = {}
        for learner, experience in learn(world, method, agent=agent, stream={"task_id": task_id}):
            for task in range(experience.stage + 1):
                width = learner.policy.observation_space.shape[0]
                rows = seen[:, :width].copy()
                rows[:, -4:] = np.eye(4, dtype=np.float32)[task]
                starts = np.ones(len(rows), dtype=bool)
                with learner.view(task) as act:
                    actions, _ = act(rows, None, starts, deterministic=True)
                assert np.array_equal(said.setdefault(task, actions), actions)
        assert len(said) == 4
        values = np.stack(
            [np.asarray(actions, dtype=np.float64).ravel() for actions in said.values()]
        )
        assert len(np.unique(values)) > 1

    return check


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[..., str]:
    """Return what ``validate`` says against a method; nothing where it takes it."""

    def say(entry: str, algorithm: str = "ppo", stream: str = "{}") -> str:
        env = "CartPole-v1" if algorithm in ("ppo", "a2c", "dqn", "trpo") else "Pendulum-v1"
        path = tmp_path / "refused.yaml"
        path.write_text(
            f"tasks: [{{name: a, env: {env}, steps: 64}}, {{name: b, env: {env}, steps: 64}}]\n"
            f"stream: {stream}\nagent: {{algorithm: {algorithm}}}\nmethods: [{entry}]\n"
        )
        try:
            load_scenario(path)
        except ScenarioError as error:
            return str(error)
        return ""

    return say


@pytest.fixture
def check_restart(train: Any, same: Any) -> Callable[..., None]:
    """Assert that saving, forgetting and loading everything after a task changes no bit."""

    def check(world: str, entry: Any, **keys: Any) -> None:
        tasks = [{"name": "t", "env": WORLDS[world][0], "steps": 64}]
        agent = {"algorithm": world.partition("-")[0]}
        scenario = Scenario.model_validate({"tasks": tasks, "agent": agent, "methods": [entry]})
        given = {"stream": {"task_count": "known"}, **keys}
        straight = train(world, kind_of(scenario).methods, **given)
        for stage in (0, 1):
            build = kind_of(scenario).methods
            same(straight, train(world, build, restart_after=stage, **given))

    return check
