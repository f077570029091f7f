"""The model of the dynamics, against the closed form of the regression in one piece."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast.agents.detection.dynamics import Dynamics

Rows = NDArray[np.float64]


def pendulum(seed: int, count: int, gravity: float = 10.0) -> tuple[Rows, Rows]:
    """Return inputs and outputs of Gymnasium's pendulum, by its equations."""
    rng = np.random.default_rng(seed)
    angle, speed = rng.uniform(-np.pi, np.pi, count), rng.uniform(-8, 8, count)
    torque = rng.uniform(-2, 2, count)
    after = np.clip(speed + (1.5 * gravity * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    turned = angle + after * 0.05
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    inputs = np.stack([np.cos(angle), np.sin(angle), speed, torque], axis=1)
    moves = [np.cos(turned) - np.cos(angle), np.sin(turned) - np.sin(angle), after - speed, reward]
    return inputs, np.stack(moves, axis=1)


def model(**options: int) -> Dynamics:
    return Dynamics(4, 4, np.random.default_rng(0), **options)


def test_errors_are_those_of_the_posterior_of_all_rows_before() -> None:
    inputs, outputs = pendulum(0, 90)
    found = model(features=12, warmup=50)
    assert len(found.errors(inputs[:50], outputs[:50])) == 0
    errors = np.concatenate(
        [found.errors(inputs[at : at + 4], outputs[at : at + 4]) for at in range(50, 90, 4)]
    )
    rng = np.random.default_rng(0)
    frequencies, phases = rng.normal(size=(4, 12)) / 2.0, rng.uniform(0, 2 * np.pi, 12)
    x = (inputs - inputs[:50].mean(axis=0)) / inputs[:50].std(axis=0)
    y = (outputs - outputs[:50].mean(axis=0)) / outputs[:50].std(axis=0)
    x = x.clip(-5, 5)
    waves = np.sqrt(2 / 12) * np.cos(x @ frequencies + phases)
    phi = np.concatenate([np.ones((90, 1)), x, waves], axis=1)
    expected = []
    for at in range(50, 90):
        before = phi[: 50 + (at - 50) // 4 * 4]  # what was learned from before this block
        precision = np.eye(17) / 100 + before.T @ before
        weights = np.linalg.solve(precision, before.T @ y[: len(before)])
        h = phi[at] @ np.linalg.solve(precision, phi[at])
        expected.append(np.log(1e-3 + np.mean((y[at] - phi[at] @ weights) ** 2) / (1 + h)))
    assert np.allclose(errors, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("block", [1, 7])
def test_what_is_learned_does_not_depend_on_the_blocks(block: int) -> None:
    inputs, outputs = pendulum(1, 700)
    one, other = model(), model()
    one.errors(inputs[:500], outputs[:500])
    other.errors(inputs[:500], outputs[:500])
    one.errors(inputs[500:], outputs[500:])
    for at in range(500, 700, block):
        other.errors(inputs[at : at + block], outputs[at : at + block])
    assert np.allclose(one.state()["_weights"], other.state()["_weights"], rtol=1e-6, atol=1e-8)


def test_another_world_surprises() -> None:
    inputs, outputs = pendulum(2, 2_000)
    found = model()
    found.errors(inputs[:500], outputs[:500])
    found.errors(inputs[500:], outputs[500:])
    usual = np.mean(found.errors(*pendulum(3, 200)))
    other = np.mean(found.errors(*pendulum(4, 200, gravity=4.0)))
    assert usual < -5.0
    assert other > usual + 2.0


def test_what_never_moved_before_has_no_scale() -> None:
    inputs, outputs = pendulum(5, 600)
    inputs[:, 3], outputs[:, 0] = 0.3, 0.0
    found = model()
    found.errors(inputs[:500], outputs[:500])
    outputs[500:, 0] = 1.0
    assert np.isfinite(found.errors(inputs[500:], outputs[500:])).all()


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    inputs, outputs = pendulum(6, 900)
    straight, broken = model(), model()
    for at in range(0, 900, 3):
        if at % 60 == 0:
            fresh = model()
            fresh.load_state({name: t.clone() for name, t in broken.state().items()})
            broken = fresh
        rows = inputs[at : at + 3], outputs[at : at + 3]
        assert np.array_equal(straight.errors(*rows), broken.errors(*rows))
