"""Attacks find what brute force finds."""

from itertools import product

import numpy as np
import pytest
import torch

from holdfast.continual.probes.attack import Attacked, Ball, own_entries, scales, worst
from holdfast.continual.probes.outcomes import StressPlan
from holdfast.continual.probes.stress import Trial
from holdfast.continual.run_folder.record import RunFolder
from holdfast.envs.vector import task_env

EVERYWHERE = torch.full((4,), torch.inf)


def test_of_a_linear_policy_it_is_the_best_corner() -> None:
    """KL of unit Gaussians with means Wx is |Wd|^2 / 2, largest in a corner of the box."""
    weights = torch.tensor([[0.5, -2.0, 0.1, 1.0]])
    radius, true = torch.tensor([0.1, 0.2, 0.3, 0.0]), torch.randn(5, 4)
    corners = torch.tensor([*product((-1.0, 1.0), repeat=4)]) * radius  # (16, 4)
    most = (0.5 * (corners @ weights.T).square().sum(-1)).max()

    def distance(seen: torch.Tensor) -> torch.Tensor:
        return 0.5 * ((seen - true.repeat(4, 1)) @ weights.T).square().sum(-1)

    ball = Ball(radius, -EVERYWHERE, EVERYWHERE)
    found = worst(distance, true, ball, torch.Generator().manual_seed(0))
    torch.testing.assert_close(distance(found.repeat(4, 1)), most.expand(20), rtol=1e-4, atol=0)
    assert ((found - true).abs() <= radius + 1e-6).all()
    # Bounds of the space hold, but for entries that are outside already.
    ball = Ball(radius, true.min(dim=0).values, EVERYWHERE)
    found = worst(distance, true, ball, torch.Generator().manual_seed(0))
    assert (found >= ball.low).all()
    flat = worst(lambda seen: 0 * seen.sum(-1), true, ball, torch.Generator().manual_seed(0))
    assert torch.equal(flat, true)


@pytest.mark.thorough
def test_a_trained_policy_changes_more_than_under_a_thousand_draws(trained: RunFolder) -> None:
    """The divergence is worked out here from the probabilities of Stable-Baselines3's policy."""
    restored = Trial(trained, 1, StressPlan(grid={}, episodes=1))._restored
    agent, rng = restored.agent, np.random.default_rng(0)
    env = task_env(restored.scenario, 1, restored.spaces)
    found = scales(env, 0)
    assert own_entries(env) == 4
    assert found.shape == (6,)
    assert found[0] == 0  # masked in this task
    assert (found[4:] == 0).all()  # the task id
    assert (found[1:4] > 0).all()
    radius = 0.5 * found
    true = np.concatenate([rng.normal(0, 0.1, (8, 4)), np.tile([0.0, 1.0], (8, 1))], axis=1)
    true = true.astype(np.float32)

    def probabilities(seen: np.ndarray) -> np.ndarray:
        tensors = agent.policy_input({"": seen})
        with torch.no_grad():
            return agent.policy.get_distribution(tensors).distribution.probs.double().numpy()

    def divergence(seen: np.ndarray) -> np.ndarray:
        old, new = probabilities(true), probabilities(seen)
        return (old * np.log(old / new)).sum(-1)

    space = env.observation_space
    attacked = Attacked(agent, radius, space, seed=0)
    with attacked.view(1):
        moved = attacked.perturbed(true)
        drawn = [true + radius * rng.uniform(-1, 1, true.shape) for _ in range(1000)]
        brute = np.max([divergence(one.astype(np.float32)) for one in drawn], axis=0)
        found_most = divergence(moved)
        # It climbs from four points, and may miss the highest of several hills.
        assert (found_most >= 0.999 * brute).sum() >= 6
        assert found_most.sum() > brute.sum()
    assert (np.abs(moved - true) <= radius + 1e-6).all()
    assert np.array_equal(moved[:, 4:], true[:, 4:])
    env.close()
