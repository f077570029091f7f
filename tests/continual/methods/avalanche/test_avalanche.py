"""Weight-regularising methods against Avalanche's plugins, where the definitions agree.

Two small sets of labelled points are learned in turn, in the order of their rows, once by
Avalanche's own loop with its plugin and once by a plain loop with our method on the gradient door.
Each test says what the two define differently, and how it makes them meet.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import DataAttribute, TaskLabels
from avalanche.benchmarks.utils.classification_dataset import (
    TaskAwareSupervisedClassificationDataset,
)
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    MASPlugin,
    RWalkPlugin,
)
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import TensorDataset

from holdfast.agents.base.parameters import Named
from holdfast.agents.doors.gradients import Gradients, Works
from holdfast.agents.doors.outputs import Output, OutputSpec
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.methods.avalanche.synaptic_intelligence import SynapticIntelligence
from holdfast.continual.methods.regularization import importance
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.mas import MAS
from holdfast.continual.methods.regularization.rwalk import RWalk
from holdfast.continual.methods.regularization.si import SI

pytestmark = [
    pytest.mark.filterwarnings("ignore:No loggers specified"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

ROWS, CLASSES, EPOCHS = 20, 3, 2
Task = tuple[Tensor, Tensor]


class Classifier(nn.Module):
    """Logits of three classes; what a policy says about an observation."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (4,))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


class Said:
    """Its output as methods read it."""

    spec, is_coded = OutputSpec("categorical", [CLASSES]), False

    def __init__(self, policy: Classifier) -> None:
        self.policy = policy

    def of(self, parameters: Named, observations: Tensor) -> Output:
        return {"logits": functional_call(self.policy, parameters, (observations,))}


class Toy:
    """As much of doors as these methods ask for."""

    def __init__(self, policy: Classifier) -> None:
        self.policy = policy
        self.gradients, self.updates = Gradients(self), Updates()  # type: ignore[arg-type]  # a toy
        self.seen = torch.empty(0)
        self.memory = SimpleNamespace(
            keep_rollouts=lambda count: None,
            observations=lambda count, rng: self.seen,
            policy_input=lambda observations: observations,
        )
        self.output = SimpleNamespace(actor=Said(policy), critic=None)
        device = torch.device("cpu")
        self.facts = SimpleNamespace(output="distribution", device=device, has_heads=False)

    def parameters(self, *groups: str) -> Named:
        return {name: p.detach() for name, p in self.policy.named_parameters()}


def _tasks() -> list[Task]:
    rng = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(ROWS, 4, generator=rng),
            torch.randint(CLASSES, (ROWS,), generator=rng),
        )
        for _ in range(2)
    ]


def _ours(method: Any, batch: int, rate: float) -> list[tuple[dict[str, Tensor], Named]]:
    """Return the weights and the method's importances after each task."""
    agent, found = Toy(Classifier()), []
    for stage, (x, y) in enumerate(_tasks()):
        experience = SimpleNamespace(generator=lambda *names: np.random.default_rng(0))
        agent.seen = x
        method.pre_adapt(agent, experience)
        optimizer = torch.optim.SGD(agent.policy.parameters(), lr=rate)
        named = dict(agent.policy.named_parameters())
        groups = dict.fromkeys(named, "actor")
        agent.updates.attach(agent.gradients.works, named, [optimizer], groups=groups)
        for _ in range(EPOCHS):
            for start in range(0, ROWS, batch):
                rows = slice(start, start + batch)
                optimizer.zero_grad()
                nn.functional.cross_entropy(agent.policy(x[rows]), y[rows]).backward()
                optimizer.step()
        agent.updates.detach()
        agent.gradients.works = Works()
        assert stage < 2
        method.post_adapt(agent, experience)
        weights = copy.deepcopy(agent.policy.state_dict())
        found.append((weights, dict(method.penalty.importance)))
    return found


def _theirs(plugin: Any, batch: int, rate: float, read: Any) -> list[Any]:
    """Return the weights and the plugin's importances after each task."""
    sets = [
        TaskAwareSupervisedClassificationDataset(
            [TensorDataset(x, y)],
            data_attributes=[DataAttribute(y.tolist(), "targets"), TaskLabels([0] * ROWS)],
        )
        for x, y in _tasks()
    ]
    model = Classifier()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=rate),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=EPOCHS,
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    )
    found = []
    for experience in benchmark_from_datasets(train=sets).train_stream:
        strategy.train(experience, shuffle=False)
        importances = {name: torch.as_tensor(value) for name, value in read(plugin).items()}
        found.append((copy.deepcopy(model.state_dict()), importances))
    return found


def _data(values: dict[str, Any]) -> Named:
    return {name: value.data.detach().clone() for name, value in values.items()}


def _equal(one: Named, other: Named, rtol: float = 1e-4, atol: float = 1e-7) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value,
            other[name].reshape(value.shape),
            rtol=rtol,
            atol=atol,
            msg=lambda m, n=name: n + m,
        )


def _moved(tasks: list[Any]) -> None:
    """The penalty did something: without one, these weights would be those of a naive run."""
    naive = _ours(SI(strength=0.0), ROWS, 0.1)
    assert not torch.allclose(naive[1][0]["layers.0.weight"], tasks[1][0]["layers.0.weight"])


@pytest.mark.parametrize("mode", ["separate", "online"])
def test_ewc(mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Avalanche takes the labels of the data where we draw actions, and squares a minibatch's mean.

    With the labels put in place of the draws and minibatches of one row, they agree.
    """
    labels = iter([y for _, y in _tasks()])
    monkeypatch.setattr(importance, "draw", lambda *_: next(labels)[:, None])
    decay = {"decay_factor": 0.7} if mode == "online" else {}
    plugin = EWCPlugin(ewc_lambda=2.0, mode=mode, **decay)
    theirs = _theirs(plugin, 1, 0.05, lambda p: _data(p.importances[max(p.importances)]))
    ours = _ours(EWC(strength=2.0, kind=mode, decay=0.7), 1, 0.05)
    _equal(ours[0][1], theirs[0][1])
    _equal(ours[0][0], theirs[0][0])
    _equal(ours[1][0], theirs[1][0])
    if mode == "online":
        _equal(ours[1][1], theirs[1][1])
    else:  # it keeps a list where we keep the sum
        total = {n: ours[0][1][n] + theirs[1][1][n].reshape(v.shape) for n, v in ours[1][1].items()}
        _equal(ours[1][1], total)


def test_a_fisher_of_minibatches_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the batch size matters to Avalanche's EWC, and not to ours."""
    labels = iter([y for _, y in _tasks()] * 2)
    monkeypatch.setattr(importance, "draw", lambda *_: next(labels)[:, None])
    read = lambda p: _data(p.importances[max(p.importances)])  # noqa: E731
    theirs = _theirs(EWCPlugin(ewc_lambda=0.0), ROWS, 0.05, read)[0][1]
    ours = _ours(EWC(strength=0.0), ROWS, 0.05)[0][1]
    ratio = sum(v.sum() for v in ours.values()) / sum(v.sum() for v in theirs.values())
    assert ratio > 5


def test_mas() -> None:
    """Avalanche takes a minibatch's mean before the absolute value, and averages over tasks.

    With minibatches of one row the first is the same; our sum of two tasks is twice its average.
    """
    theirs = _theirs(MASPlugin(lambda_reg=0.5, alpha=0.5), 1, 0.05, lambda p: _data(p.importance))
    ours = _ours(MAS(strength=0.5), 1, 0.05)
    _equal(ours[0][1], theirs[0][1])
    _equal(ours[1][0], theirs[1][0])
    _equal(ours[1][1], {name: 2 * value for name, value in theirs[1][1].items()})


def test_si() -> None:
    """Avalanche has a factor 1/2, caps importances at .001, and follows the penalised gradient.

    The plugin as published notes no copies on a CPU, so that every importance is zero; ours copies
    them. A large xi keeps importances below the cap. The gradient differs from the second task on:
    until its end the weights agree, and then our importances are those of the loss alone.
    """
    plugin = SynapticIntelligence(si_lambda=2 * 3000.0, eps=50.0)
    theirs = _theirs(plugin, 5, 0.1, lambda p: _data(p.ewc_data[1]))
    method = SI(strength=3000.0, xi=50.0)
    ours = _ours(method, 5, 0.1)
    assert 0 < max(v.max().item() for v in ours[0][1].values()) < 1e-3
    _equal(ours[0][1], theirs[0][1], atol=1e-9)
    _equal(ours[1][0], theirs[1][0], rtol=1e-3, atol=1e-5)
    gap = (ours[1][1]["layers.0.weight"] - theirs[1][1]["layers.0.weight"].view(5, 4)).abs().max()
    assert gap > 1e-6
    _moved(ours)


def test_rwalk() -> None:
    """The same definitions; Avalanche computes the gradient of the loss alone a second time."""
    plugin = RWalkPlugin(ewc_lambda=0.3, ewc_alpha=0.8, delta_t=4)
    theirs = _theirs(plugin, 5, 0.1, lambda p: _data(p.exp_penalties))
    epsilon = torch.finfo(torch.float32).eps
    ours = _ours(RWalk(strength=0.3, alpha=0.8, interval=4, epsilon=epsilon), 5, 0.1)
    for stage in range(2):
        _equal(ours[stage][1], theirs[stage][1], rtol=1e-3, atol=1e-5)
        _equal(ours[stage][0], theirs[stage][0], rtol=1e-4, atol=1e-6)
    _moved(ours)
