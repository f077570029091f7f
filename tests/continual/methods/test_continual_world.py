"""The formulas of Continual World's and COOM's code, worked out on fixed weights in float64.

continual_world: sac/models.py (squashed mean, shared variables), methods/ewc.py, mas.py,
regularization.py, packnet.py, sac/sac.py (clipping). COOM: CL/methods/clonex.py, CL/rl/sac.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.agents.doors.gradients import Gradients
from holdfast.agents.doors.outputs import OutputSpec
from holdfast.agents.sb3.learner import StableBaselinesAgent
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.method import Method
from holdfast.continual.methods.architecture.packnet import PackNet
from holdfast.continual.methods.regularization.ewc import EWC
from holdfast.continual.methods.regularization.mas import MAS
from holdfast.continual.methods.rehearsal.cloning import Cloning
from holdfast.continual.streams.task_stream import make_stream
from holdfast.scenarios.schema.scenario import Scenario

EXTRACTOR = {"features_extractor": "double:DoubleFlatten", "net_arch": [8, 8]}
SAC = {"algorithm": "sac", "buffer_size": 100, "policy_kwargs": EXTRACTOR}
ROWS = 12
CORE = [f"latent_pi.trunk.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")]
CLOSE = {"rtol": 1e-5, "atol": 1e-12}


def _outputs(weights: list[Tensor], heads: dict[str, Tensor], row: Tensor, task: int) -> Any:
    """Return tanh(mu) x 2 and log sigma of one observation, as sac/models.py has them."""
    first, first_bias, second, second_bias = weights
    hidden = torch.relu(second @ torch.relu(first @ row + first_bias) + second_bias)
    mu = heads["mu.heads.weight"][task] @ hidden + heads["mu.heads.bias"][task]
    log_std = heads["log_std.heads.weight"][task] @ hidden + heads["log_std.heads.bias"][task]
    return torch.tanh(mu) * 2.0, log_std.clamp(-20, 2)


def _importance(method: str, weights: list[Tensor], heads: Any, rows: Tensor, task: int) -> Any:
    """Return the mean over rows of what ewc.py and mas.py take from each row's gradients."""
    total = [torch.zeros_like(weight) for weight in weights]
    for row in rows:
        leaves = [weight.clone().requires_grad_() for weight in weights]
        mu, log_std = _outputs(leaves, heads, row, task)
        if method == "ewc":
            std = log_std.exp()
            of_mu = torch.autograd.grad(mu, leaves, retain_graph=True)
            of_std = torch.autograd.grad(std, leaves)
            for sum_, a, b in zip(total, of_mu, of_std, strict=True):
                fisher = (a**2 + 2 * b**2) / (std.detach() ** 2 + 1e-6)
                sum_ += fisher.clamp_min(1e-5) / len(rows)
        else:
            for sum_, g in zip(total, torch.autograd.grad(mu**2 + log_std**2, leaves), strict=True):
                sum_ += g.abs() / len(rows)
    return total


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["ewc", "mas"])
def test_importances_and_penalty_are_those_of_continual_world(name: str, seed: int) -> None:
    scenario = Scenario.model_validate(
        {
            "tasks": [{"name": task, "env": "Pendulum-v1", "steps": 64} for task in "ab"],
            "stream": {"task_id": "heads"},
            "agent": SAC,
        }
    )
    ewc = EWC(kind="summed", fisher="squashed", floor=1e-5)
    method: Any = {"ewc": ewc, "mas": MAS(strength=1e4, squashed=True)}[name]
    agent = StableBaselinesAgent(scenario)
    random = torch.Generator().manual_seed(seed)
    total: Any = [0.0] * len(CORE)
    for experience in make_stream(scenario, seed).train_stream:
        task = experience.task_index
        agent.start(experience)
        actor = agent.policy.double().actor
        for parameter in actor.parameters():  # mu from -8 to 8: tanh is far from the identity
            parameter.data.copy_(torch.randn(parameter.shape, generator=random).double() * 0.9)
        live = {n: p.detach().clone() for n, p in actor.named_parameters()}
        rows = torch.randn((ROWS, 3), generator=random)
        seen = torch.cat([rows, torch.eye(2)[task].expand(ROWS, 2)], 1)
        doors = agent.doors(method)
        doors.memory = SimpleNamespace(observations=lambda *_: {}, policy_input=lambda _, s=seen: s)
        method.post_adapt(doors, experience)

        weights, heads = [live[core] for core in CORE], live
        new = _importance(name, weights, heads, rows.double(), task)
        total = [old + more for old, more in zip(total, new, strict=True)]
        for core, expected in zip(CORE, total, strict=True):
            found = method.penalty.importance[f"actor.{core}"]
            torch.testing.assert_close(found, expected, **CLOSE)
        for head in ("mu", "log_std"):  # heads that have not learned are left out
            for kind in ("weight", "bias"):
                held = method.penalty.importance[f"actor.{head}.heads.{kind}"]
                assert held[task + 1 :].abs().sum() == 0
                assert (held[: task + 1].abs().sum() > 0) or name == "mas"
    agent.close()

    # The penalty's gradient one random step away: autograd of 1e4 x sum of w (theta - theta*)^2.
    moved = [weight + 0.1 * torch.randn(weight.shape, generator=random) for weight in weights]
    leaves = [weight.clone().requires_grad_() for weight in moved]
    pairs = zip(total, leaves, weights, strict=True)
    loss = 1e4 * sum(((w * (new - old) ** 2).sum() for w, new, old in pairs), torch.tensor(0.0))
    expected_pull = torch.autograd.grad(loss, leaves)
    pull = method.penalty.gradient({f"actor.{n}": v for n, v in zip(CORE, moved, strict=True)})
    for core, expected in zip(CORE, expected_pull, strict=True):
        torch.testing.assert_close(pull[f"actor.{core}"], expected, **CLOSE)


class _Gaussian:
    """A policy whose mean is observations @ weight, with a deviation of 1."""

    spec, is_coded = OutputSpec("gaussian"), False

    def of(self, parameters: dict[str, Tensor], observations: Tensor) -> dict[str, Tensor]:
        mean = observations @ parameters["actor"]
        return {"mean": mean, "log_std": torch.zeros_like(mean)}


class _Stored:
    """Rows of a finished task; none before the first."""

    def __init__(self, batch: dict[str, Any] | None) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 0 if self.batch is None else 1

    def draw(self, *_: Any) -> Any:
        return self.batch


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("is_first", [True, False])
def test_cloning_averages_both_gradients_and_then_clips(is_first: bool, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    draw: Any = lambda *shape: torch.randn(shape, generator=random, dtype=torch.float64)  # noqa: E731
    actor, critic = torch.nn.Parameter(draw(3, 2)), torch.nn.Parameter(draw(4))
    seen, old, own, judged = draw(16, 3), draw(16, 2), draw(3, 2), draw(4)
    labels = {"mean": old, "log_std": torch.zeros_like(old)}
    cloning = Cloning(strength=100.0, clip_norm=0.1, merge="mean")
    cloning.stored = _Stored(None if is_first else {"seen": seen, "labels": labels})  # type: ignore[assignment]  # rows given
    gradients = Gradients(None)  # type: ignore[arg-type]  # nothing is read of a learner
    doors: Any = SimpleNamespace(
        gradients=gradients,
        memory=SimpleNamespace(keep_rollouts=lambda _: None),
        output=SimpleNamespace(actor=_Gaussian()),
    )
    cloning.pre_adapt(doors, SimpleNamespace(generator=lambda *_: None))  # type: ignore[arg-type]  # draws nothing
    named = {"actor": actor, "critic": critic}
    optimizers = [torch.optim.SGD([actor], lr=1.0), torch.optim.SGD([critic], lr=1.0)]
    Updates().attach(gradients.works, named, optimizers, groups={n: n for n in named})
    start = actor.detach().clone(), critic.detach().clone()
    for optimizer, loss in zip(
        optimizers, ((actor * own).sum(), (critic * judged).sum()), strict=True
    ):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    merged = own
    if not is_first:  # KL between Gaussians of deviation 1: half the squared distance
        leaf = start[0].clone().requires_grad_()
        cloned = 100.0 * (0.5 * (old - seen @ leaf) ** 2).sum(1).mean()
        merged = (own + torch.autograd.grad(cloned, leaf)[0]) / 2
    pairs = ((merged, start[0] - actor), (judged, start[1] - critic))
    for gradient, step in pairs:  # tf.clip_by_global_norm of each network
        expected = gradient * 0.1 / max(gradient.norm().item(), 0.1)
        torch.testing.assert_close(step.detach(), expected, **CLOSE)


class _Recorder(Method):
    """Keeps the gradients of every update at its place among the projections."""

    doors = ("gradients",)

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def pre_adapt(self, doors: Any, experience: Any) -> None:
        def keep(_parameters: Any, gradients: Any, state: Any, _batch: Any) -> Any:
            self.seen.append({n: g.clone() for n, g in gradients.items()})
            return gradients, state

        doors.gradients.project(keep)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_packnet_clips_every_update_of_actor_and_critic(seed: int, train: Any) -> None:
    before, after = _Recorder(), _Recorder()
    packnet = PackNet(retrain_updates=4, clip_norm=2e-5, clip="all")
    train(
        "sac",
        lambda: [before, packnet, after],
        tasks=2,
        stream={"task_id": "heads", "task_count": "known"},
        agent={"policy_kwargs": {"net_arch": [8, 8 + seed]}},  # other weights
    )
    assert len(before.seen) == len(after.seen) > 40
    for given, clipped in zip(before.seen, after.seen, strict=True):
        norm = torch.cat([g.double().reshape(-1) for g in given.values()]).norm()
        for name, gradient in given.items():
            expected = gradient.double() * 2e-5 / norm.clamp_min(2e-5)
            torch.testing.assert_close(clipped[name].double(), expected, rtol=1e-5, atol=1e-16)
