"""FAME: its test by Welch's formula, its losses by autograd, its starts, its meta learner."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from double import Linear, kl_of
from scipy.special import stdtr

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.continual.method import Method
from holdfast.continual.methods.plasticity.spectral import Spectral
from holdfast.continual.methods.references.isolated import Isolated
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.rehearsal import fame
from holdfast.continual.methods.rehearsal.fame import FAME, chosen, meta_gradient, meta_loss

FEW: dict[str, Any] = {"samples": 32, "batch_size": 16, "updates": 8, "trial_share": 0.125}


# -- which start -----------------------------------------------------------------------------------


def test_a_start_is_taken_whose_mean_is_above_all_others() -> None:
    assert chosen({"fresh": [0.0], "fast": [2.0, 4.0], "meta": [2.0]}, None) == "fast"
    assert chosen({"fresh": [0.0], "fast": [2.0, 3.0], "meta": [2.6]}, None) == "meta"
    assert chosen({"fresh": [9.0], "fast": [2.0], "meta": [3.0]}, None) == "fresh"
    assert chosen({"fresh": [0.0], "fast": [2.0], "meta": [2.0]}, None) == "fresh"  # none is best


def test_welchs_test_is_of_each_pair() -> None:
    """t = (6 - 2) / sqrt(4 / 3 + 1 / 3); degrees of freedom by Welch and Satterthwaite."""
    one, other = [4.0, 6.0, 8.0], [1.0, 2.0, 3.0]
    t = 4 / np.sqrt(5 / 3)
    freedom = (5 / 3) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2)
    p = stdtr(freedom, -t)
    assert 0.02 < p < 0.03
    for name in ("fast", "meta"):
        tried = {"fresh": other, "fast": other, "meta": other} | {name: one}
        assert chosen(tried, p + 1e-6) == name
        assert chosen(tried, p - 1e-6) == "fresh"
    # One other that is as good is enough; a single episode has no deviation, and means decide.
    assert chosen({"fresh": other, "fast": one, "meta": one}, 0.05) == "fresh"
    assert chosen({"fresh": [2.0], "fast": [2.1, 2.2]}, 1e-9) == "fast"
    assert chosen({"fresh": [9.0, 9.0], "fast": [500.0, 500.0]}, 1e-9) == "fast"
    assert chosen({"fresh": [9.0, 9.0], "fast": [9.0, 9.0]}, 0.5) == "fresh"


# -- losses ----------------------------------------------------------------------------------------


def _drawn(kind: str, count: int) -> tuple[Any, torch.Tensor, list[dict[str, torch.Tensor]]]:
    rng = np.random.default_rng(0)
    seen = torch.as_tensor(rng.normal(size=(12, 4)))
    tensors = [
        {n: torch.as_tensor(rng.normal(size=(4, 3))) for n in Linear.names[kind]}
        for _ in range(count)
    ]
    return Linear(kind), seen, tensors


def _same(found: dict[str, torch.Tensor], loss: Any, tensors: dict[str, torch.Tensor]) -> None:
    leaves = {n: t.clone().requires_grad_() for n, t in tensors.items()}
    expected = torch.autograd.grad(loss(leaves), list(leaves.values()))
    for one, other in zip(found.values(), expected, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", Linear.names)
def test_the_meta_learner_goes_down_the_divergence_from_what_is_stored(kind: str) -> None:
    output, seen, (fast, meta) = _drawn(kind, 2)
    stored = output.of(fast, seen)
    found = meta_gradient(output, meta, seen, stored)
    _same(found, lambda leaves: kl_of(stored, output.of(leaves, seen)), meta)


def test_that_is_maximum_likelihood_in_expectation_over_actions() -> None:
    """Sum over actions of p(a) times the gradient of -log of the meta learner's p(a)."""
    output, seen, (fast, meta) = _drawn("categorical", 2)
    stored = output.of(fast, seen)
    share = stored["logits"].softmax(-1)

    def likelihood(leaves: Any) -> torch.Tensor:
        said = output.of(leaves, seen)["logits"].log_softmax(-1)
        return -(share * said).sum(-1).mean()

    _same(meta_gradient(output, meta, seen, stored), likelihood, meta)


def test_of_action_values_the_greedy_action_is_what_is_learned() -> None:
    """At equal logits: softmax minus one-hot, (.5 - 1, .5) and (.5, .5 - 1)."""
    output: Any = Linear("unit_gaussian")
    tensors = {"mean": torch.zeros(1, 2)}
    one = {"action": torch.tensor([0])}
    seen = torch.ones(1, 1)
    assert meta_gradient(output, tensors, seen, one)["mean"].tolist() == [[-0.5, 0.5]]
    assert float(meta_loss(output.spec, one, output.of(tensors, seen))) == pytest.approx(np.log(2))


def test_the_loss_on_action_values_pulls_their_softmax_to_the_meta_learners() -> None:
    """Its gradient by the values is strength (softmax(values) - softmax(meta)) / rows."""
    output, seen, (meta, values) = _drawn("unit_gaussian", 2)
    method, batch = FAME(strength=0.7), {"now": seen, "then": seen}
    found = method.warm_gradient(output, values, {"meta": meta}, batch)["mean"]
    gap = (seen @ values["mean"]).softmax(-1) - (seen @ meta["mean"]).softmax(-1)
    torch.testing.assert_close(found, 0.7 * seen.T @ gap / len(seen), rtol=1e-9, atol=1e-12)
    assert found.abs().max() > 1e-3


# -- starts ----------------------------------------------------------------------------------------


class Noted(FAME):
    """Keeps how each choice went: weights and steps before and after, and what was tried."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.went: list[dict[str, Any]] = []
        self.steps: list[int] = []
        self.warmed = 0

    def due(self, doors: Any, name: str) -> None:
        weights = lambda: {n: t.clone() for n, t in doors.lifecycle.weights().items()}  # noqa: E731
        went = {"fresh": self._fresh, "meta": self.meta.tensors, "fast": self._fast}
        went |= {"from": doors.step, "before": weights()}
        super().due(doors, name)
        self.went.append({**went, "to": doors.step, "after": weights()})

    def warm_gradient(self, *given: Any) -> Any:
        self.warmed += 1
        return super().warm_gradient(*given)


class Started(Method):
    """Keeps what each task starts from."""

    doors = ("lifecycle",)

    def __init__(self) -> None:
        self.starts: list[Any] = []

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        doors.lifecycle.before_learning("start")

    def due(self, doors: Any, name: str) -> None:
        self.starts.append({n: t.clone() for n, t in doors.lifecycle.weights().items()})


def _equal(one: Any, other: Any, names: Any = None) -> bool:
    return all(torch.equal(one[n], other[n]) for n in (one if names is None else names))


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda name: monkeypatch.setattr(fame, "chosen", lambda *_: name)


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_without_a_trial_the_fast_learner_is_naive_bit_for_bit(world: str, train: Any) -> None:
    naive: list[Any] = []
    given = {"watch": lambda agent, _: naive.append(dict(_copied(agent)))}
    train(world, list, tasks=3, **given)
    method = FAME(**FEW | {"trial_share": 0.0})
    tasks = iter(naive)

    def watch(agent: Any, _: Any) -> None:
        expected, live = next(tasks), agent.policy.state_dict()
        assert method._fast
        assert _equal(method._fast, expected)
        assert _equal(live, expected, live.keys() - method._fast.keys())

    train(world, lambda: [method], tasks=3, watch=watch)
    assert next(tasks, None) is None


def _copied(agent: Any) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in agent.policy.state_dict().items()}


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_new_start_is_an_agent_of_its_own(world: str, train: Any, start: Any) -> None:
    start("fresh")
    method, other = Noted(**FEW), Started()
    train(world, lambda: [method])
    train(world, lambda: [Isolated(), other])
    for went, own in zip(method.went, other.starts[1:], strict=True):
        assert _equal(went["after"], own)
        assert not _equal(went["before"], own)


@pytest.mark.parametrize("world", ["ppo", "sac", "td3", "dqn"])
def test_starts_from_the_fast_and_the_meta_learner(world: str, train: Any, start: Any) -> None:
    start("fast")
    method = Noted(**FEW)
    train(world, lambda: [method])
    for went in method.went:
        assert _equal(went["before"], went["after"])
        assert _equal(went["fast"], went["after"])
    assert not _equal(method.went[1]["meta"], method.went[1]["fast"], method.went[1]["meta"])
    start("meta")
    method = Noted(**FEW)
    agent = train(world, lambda: [method])
    for went in method.went:
        if world == "dqn":
            assert _equal(went["before"], went["after"])
            continue
        assert _equal(went["meta"], went["after"])
        critic = named_parameters(agent.policy, "critic")
        assert critic
        assert _equal(went["fresh"], went["after"], critic)
        assert not _equal(went["before"], went["after"], critic)
        for name in went["meta"]:
            target = name.replace("actor.", "actor_target.")
            assert target not in went["after"] or torch.equal(
                went["after"][target], went["meta"][name]
            )


@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_trials_are_steps_of_the_task_that_nothing_learns(world: str, train: Any) -> None:
    """Of 64 steps, 16 are of each of two, then three starts; what is left is learned from."""
    method, seen = Noted(**FEW | {"trial_share": 0.25}), []

    def watch(agent: Any, experience: Any) -> None:
        model = agent.model
        seen.append((model.num_timesteps, model._n_updates))
        if world != "ppo":
            buffer = model.replay_buffer
            assert buffer.size() * buffer.n_envs == 64  # the trials' are stored as well

    train(world, lambda: [method], watch=watch)
    assert [(went["from"], went["to"]) for went in method.went] == [(0, 32), (0, 48)]
    # 2 epochs a rollout of 32 steps; one update after every 4 steps from the 17th on.
    updates = [4, 2, 2] if world == "ppo" else [12, 8, 4]
    assert seen == [(64, count) for count in updates]


def test_every_step_of_a_trial_is_told_of_once(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    published = StableBaselinesAgent.learn

    def learn(self: Any, experience: Any, _watch: Any, *given: Any) -> None:
        published(self, experience, told.append, *given)

    monkeypatch.setattr(StableBaselinesAgent, "learn", learn)
    train("ppo", lambda: [FAME(**FEW)])
    assert told == [*range(2, 65, 2)] * 3


@pytest.mark.parametrize("warm_share", [0.0, 0.75])
def test_the_loss_on_action_values_is_there_for_a_share_of_the_task(
    warm_share: float, train: Any, start: Any
) -> None:
    start("meta")
    method = Noted(**FEW, warm_share=warm_share)
    train("dqn", lambda: [method])
    updates = 0 if not warm_share else sum(48 // 4 - went["to"] // 4 for went in method.went)
    assert method.warmed == updates
    start("fast")
    other = Noted(**FEW, warm_share=warm_share)
    train("dqn", lambda: [other])
    assert other.warmed == 0


@pytest.mark.thorough
def test_returns_are_of_raw_rewards_by_whole_episodes(train: Any) -> None:
    """A pole that lasts 4 steps at most: each start's returns are its rewards, 4 at most."""
    tried: list[Any] = []

    class Tried(FAME):
        def due(self, doors: Any, name: str) -> None:
            tried.append(doors.lifecycle.try_out({}, 16))
            super().due(doors, name)

    given = {"normalize": {"rewards": "running"}}
    changes = {"time_limit": 4}
    train("ppo", lambda: [Tried(**FEW)], agent=given, changes=changes)
    assert tried == [[4.0] * 4] * 2  # 8 steps in each of two environments
    tried.clear()
    train("ppo", lambda: [Tried(**FEW)], agent=given, changes={"time_limit": 9})
    assert tried == [[8.0] * 2] * 2  # cut short


# -- the meta learner ------------------------------------------------------------------------------


class Compared(FAME):
    """Compares the meta learner's loss on what is stored, before and after it is trained."""

    def _trained(self, doors: Any, rng: Any) -> Any:
        output = doors.output.actor
        drawn = self.stored.draw(doors, np.random.default_rng(0), 96)
        assert drawn is not None
        before, after = self.meta.tensors, super()._trained(doors, rng)
        with torch.no_grad():
            self.losses = [
                float(meta_loss(output.spec, drawn["labels"], output.of(tensors, drawn["seen"])))
                for tensors in (before, after)
            ]
        return after


@pytest.mark.thorough
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_the_meta_learner_learns_what_is_stored_of_all_tasks(world: str, train: Any) -> None:
    method = Compared(**FEW | {"updates": 300, "learning_rate": 3e-3})
    train(world, lambda: [method], tasks=2)
    assert method.losses[1] < 0.6 * method.losses[0]
    assert len(method.stored) == 2 * FEW["samples"]


@pytest.mark.parametrize("world", ["ppo-box", "sac"])
def test_finished_tasks_are_acted_on_by_the_meta_learner(world: str, train: Any) -> None:
    method = FAME(**FEW)

    def watch(agent: Any, experience: Any) -> None:
        live = agent.policy.state_dict()
        assert method.meta.tensors
        assert _equal(method.meta.tensors, live)
        for parameter in agent.policy.parameters():  # as another task's training would
            parameter.data += 0.5
        for task in range(experience.task_index):
            with agent.view(task):
                assert _equal(method.meta.tensors, agent.policy.state_dict())

    normalize = {"normalize": {"observations": "running"}}
    train(world, lambda: [method], watch=watch, agent=normalize)
    assert method.meta.statistics


@pytest.mark.thorough
@pytest.mark.parametrize("task_id", ["observed", "heads", "hidden"])
@pytest.mark.parametrize("world", ["ppo", "sac", "dqn"])
def test_a_restart_changes_nothing(world: str, task_id: str, check_restart: Any) -> None:
    keys = {"stream": {"task_count": "known", "task_id": task_id}}
    check_restart(world, {"fame": FEW}, **keys)


# -- where it works --------------------------------------------------------------------------------


def test_it_is_refused_by_name_where_it_cannot_work(refusal: Any) -> None:
    assert [refusal("fame", a) for a in ("ppo", "dqn", "sac")] == [""] * 3
    assert refusal("fame", stream="{task_id: hidden}") == ""
    for algorithm in ("trpo", "crossq"):
        assert "fame" in refusal("fame", algorithm)
    assert "boundaries" in refusal("fame", stream="{task_id: hidden, boundaries: hidden}")
    assert "trial_share" in refusal("{fame: {trial_share: 0.3}}")
    assert "significance" in refusal("{fame: {significance: 1.0}}")
    for carry in ("{optimizer: true}", "{weights: false}"):
        said = refusal("fame", stream=f"{{}}\ncarry: {carry}")
        assert f"'fame' cannot work with carry.{carry[1:-1].replace(': ', ': ')}" in said


def test_it_composes_with_what_acts_inside_tasks(train: Any, refusal: Any) -> None:
    others = lambda: [Spectral(strength=0.1), EWC(samples=32)]  # noqa: E731
    method = FAME(**FEW)
    train("ppo", lambda: [method, *others()])
    assert len(method._tasks) == 3
    assert refusal("[fame, ewc, spectral]") == ""
    assert "keep the policy of each task" in refusal("[fame, reset-distill]")
    assert "weights" in refusal("[fame, reptile]")
