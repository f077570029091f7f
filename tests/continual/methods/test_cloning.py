"""Behavioural cloning: by hand, and what it stores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.agents.outputs import OutputSpec
from holdfast.continual.methods.cloning import Cloning


class _TwoLogits(nn.Module):
    """A policy output of one weight: logits (w * x, 0)."""

    spec = OutputSpec("categorical", [2])

    def __init__(self) -> None:
        super().__init__()
        self.policy = nn.Linear(1, 1, bias=False)

    def forward(self, observations: Tensor) -> dict[str, Tensor]:
        logit = self.policy(observations)
        return {"logits": torch.cat([logit, torch.zeros_like(logit)], -1)}


def _gradient(cloning: Cloning, weight: float) -> float:
    parameters = {"weight": torch.tensor([[weight]])}
    stored = {"logits": torch.zeros(1, 2)}
    gradients = cloning.gradient(_TwoLogits(), parameters, torch.ones(1, 1), stored)
    return gradients["weight"].item()


def test_gradient_by_hand() -> None:
    """d KL((1/2, 1/2) || sigmoid(w)) / dw = sigmoid(w) - 1/2; at w = ln 3 that is 1/4."""
    assert _gradient(Cloning(strength=8.0), math.log(3.0)) == pytest.approx(2.0)
    assert _gradient(Cloning(strength=8.0), 0.0) == pytest.approx(0.0)


def test_clip_norm_bounds_the_added_gradient() -> None:
    assert _gradient(Cloning(strength=8.0, clip_norm=0.1), math.log(3.0)) == pytest.approx(0.1)
    assert _gradient(Cloning(strength=0.1, clip_norm=0.1), math.log(3.0)) == pytest.approx(0.025)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn", "sac"])
def test_what_is_stored_is_the_policy_at_the_end_of_each_task(
    algorithm: str, run: Any, weights: Any
) -> None:
    from safetensors.torch import load_file

    from holdfast.agents.stable_baselines import StableBaselinesAgent
    from holdfast.continual.stream import make_stream

    folder = run(algorithm, {"cloning": {"samples": 100}}, tasks=2)
    stored = load_file(folder.path / "checkpoints" / "task-1" / "method-0.safetensors")
    assert {len(tensor) for tensor in stored.values()} == {200}
    observations = stored["observations/"].numpy()
    # The one-hot task id stands at the end of every stored observation.
    assert np.array_equal(observations[:, -2:], np.repeat(np.eye(2), 100, axis=0))
    agent = StableBaselinesAgent(folder.scenario)
    agent.start(next(iter(make_stream(folder.scenario, 0).train_stream)))
    for task in range(2):
        agent.policy.load_state_dict(
            {n: t for n, t in weights(folder, task).items() if n != "log_ent_coef"}
        )
        rows = slice(100 * task, 100 * task + 100)
        with torch.no_grad():
            output = agent.output()(agent.policy_input({"": observations[rows]}))
        for key, value in output.items():
            torch.testing.assert_close(stored[f"output/{key}"][rows], value)
    agent.close()
