"""Slots that are taken up again, against the regression in one piece and sums taken one by one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from numpy.typing import NDArray

from holdfast import seeding
from holdfast.agents.detection import recurrence
from holdfast.agents.detection.change_tests import highest_sum
from holdfast.agents.detection.detector import Detector
from holdfast.agents.detection.signals import Lived
from holdfast.scenarios.schema.detector import Detector as Options

Rows = NDArray[np.float64]
N_ENVS, COOLDOWN, TOLERANCE, THRESHOLD = 10, 200, 0.5, 200.0
OBSERVATIONS, ACTIONS = gym.spaces.Box(-8, 8, (3,)), gym.spaces.Box(-2, 2, (1,))


def detector(**more: Any) -> Detector:
    test = {"tolerance": TOLERANCE, "threshold": THRESHOLD}
    keys = {"page_hinkley": test, "cooldown": COOLDOWN, "recurring": True, **more}
    return Detector(Options.model_validate(keys), OBSERVATIONS, ACTIONS, N_ENVS, seed=0)


def pendulum(gravity: float, rng: np.random.Generator) -> Lived:
    """Return a step from random places, by the equations of Gymnasium's pendulum."""
    angle, speed = rng.uniform(-np.pi, np.pi, N_ENVS), rng.uniform(-8, 8, N_ENVS)
    torque = rng.uniform(-2, 2, N_ENVS)
    after = np.clip(speed + (1.5 * gravity * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    turned = angle + after * 0.05
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    seen, following = (
        np.stack([np.cos(a), np.sin(a), s], axis=1) for a, s in ((angle, speed), (turned, after))
    )
    return Lived(seen, torque[:, None], reward, following, np.zeros(N_ENVS, bool), [])


def live(found: Detector, gravities: list[float], steps: int = 150, seed: int = 0) -> list[Lived]:
    """Let a detector look at worlds one after the other, and begin slots as an on-policy agent."""
    rng, lived = np.random.default_rng(seed), []
    for gravity in gravities:
        for _ in range(steps):
            lived.append(pendulum(gravity, rng))
            found.look(lived[-1])
            if found.is_due(on_policy=True):
                found.begin_slot()
    return lived


def test_the_highest_sum_is_that_of_the_best_run_of_numbers() -> None:
    values = np.random.default_rng(0).normal(size=60)
    runs = [
        sum(x - 0.2 - 0.3 for x in values[first:last])
        for first in range(60)
        for last in range(first, 61)
    ]
    assert highest_sum(values, 0.2, 0.3) == pytest.approx(max(runs))
    assert highest_sum(np.array([-1.0, -2.0]), 0.0, 0.0) == 0.0


def test_a_world_that_comes_again_has_its_slot_again() -> None:
    found = detector()
    live(found, [10.0, 2.0, 10.0, 18.0, 2.0, 18.0])
    assert [one.slot for one in found.detections] == [1, 0, 2, 1, 2]
    assert [one.step // 1500 for one in found.detections] == [1, 2, 3, 4, 5]
    assert all(one.begun - one.step < recurrence.LEAST + N_ENVS for one in found.detections)
    assert found.slot == 2


def test_the_choice_and_what_is_learned_are_those_of_the_regression_in_one_piece() -> None:
    """Of slot 0, when its world comes again: its rows without those after the change."""
    found = detector()
    lived = live(found, [10.0, 2.0], steps=150)
    changed = found.changed // N_ENVS * N_ENVS  # what is of one step is learned at once
    rng = np.random.default_rng(1)
    while not found.is_due(on_policy=True):
        lived.append(pendulum(10.0, rng))
        found.look(lived[-1])
    second = found.changed // N_ENVS * N_ENVS
    rows = pendulum_rows(lived)
    phi, y = standardised(rows)
    # Slot 0 in one piece: all rows before the change, with errors from the end of cool-down on.
    whole = regression(phi[:changed], y[:changed])
    tested = range(max(COOLDOWN, 500), changed, N_ENVS)
    errors = np.concatenate([
        errors_of(regression(phi[:at], y[:at]), phi[at : at + N_ENVS], y[at : at + N_ENVS])
        for at in tested
    ])  # fmt: skip
    # What is lived through since the return of the world, put to it in blocks that it learns.
    seen, own = [], list(whole)
    for at in range(second, len(rows), 32):
        block = slice(at, at + 32)
        precision, weighted = own
        seen.append(errors_of((precision, weighted), phi[block], y[block]))
        own = [precision + phi[block].T @ phi[block], weighted + phi[block].T @ y[block]]
    above = np.concatenate(seen) - errors.mean() - TOLERANCE / 4
    statistic = max(above[i:j].sum() for i in range(len(above)) for j in range(i, len(above) + 1))
    assert statistic < THRESHOLD / 4
    found.begin_slot()
    assert found.slot == 0
    learned = found._signal.model.learned  # type: ignore[attr-defined]  # of Prediction
    assert np.allclose(learned.weights, np.linalg.solve(own[0], own[1]), atol=1e-6)
    assert np.allclose(learned.covariance, np.linalg.inv(own[0]), atol=1e-6)


def pendulum_rows(lived: list[Lived]) -> Rows:
    """Return inputs and outputs side by side, shape (transitions, 8)."""
    steps = [
        np.concatenate([o.observations, o.actions, o.following - o.observations,
                        o.rewards[:, None]], axis=1)
        for o in lived
    ]  # fmt: skip
    return np.concatenate(steps)


def standardised(rows: Rows) -> tuple[Rows, Rows]:
    """Return features and outputs as the model has them, drawn from the detector's generator."""
    rng = seeding.generator(0, "detector")
    frequencies, phases = rng.normal(size=(4, 100)) / 2.0, rng.uniform(0, 2 * np.pi, 100)
    scaled = (rows - rows[:500].mean(axis=0)) / rows[:500].std(axis=0)
    x = scaled[:, :4].clip(-5, 5)
    waves = np.sqrt(2 / 100) * np.cos(x @ frequencies + phases)
    return np.concatenate([np.ones((len(x), 1)), x, waves], axis=1), scaled[:, 4:]


def regression(phi: Rows, y: Rows) -> tuple[Rows, Rows]:
    """Return the precision of the weights, and what it makes them from."""
    return np.eye(105) / 100 + phi.T @ phi, phi.T @ y


def errors_of(fitted: tuple[Rows, Rows], phi: Rows, y: Rows) -> Rows:
    precision, weighted = fitted
    h = (phi * np.linalg.solve(precision, phi.T).T).sum(axis=1)
    squares = ((y - phi @ np.linalg.solve(precision, weighted)) ** 2).mean(axis=1)
    found: Rows = np.log(1e-3 + squares / (1 + h))
    return found


def test_nothing_is_chosen_from_too_little() -> None:
    found = detector()
    rng = np.random.default_rng(0)
    live(found, [10.0])
    while not found.is_waiting:
        found.look(pendulum(2.0, rng))
    changed = found.changed // N_ENVS * N_ENVS
    assert found._step - changed < recurrence.LEAST
    assert not found.is_due(on_policy=True)
    while not found.is_due(on_policy=True):
        found.look(pendulum(2.0, rng))
    assert found._step - changed == recurrence.LEAST


def test_the_slot_that_was_left_longest_ago_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "KEPT", 2)
    found = detector()
    live(found, [10.0, 2.0, 18.0, 30.0, 10.0, 30.0])
    assert [one.slot for one in found.detections] == [1, 2, 3, 4, 3]


def test_it_goes_on_from_its_state_bit_for_bit() -> None:
    """Also between a detection and its effect; another seed learns other features."""
    rng = np.random.default_rng(3)
    straight, broken = detector(), detector()
    for place in range(600):
        lived = pendulum([10.0, 2.0][place // 150 % 2], rng)
        if place % 37 == 0 or broken.is_waiting:
            fresh = detector()
            fresh.load_state({name: t.clone() for name, t in broken.state().items()})
            broken = fresh
        for each in (straight, broken):
            each.look(lived)
            if each.is_due(on_policy=True):
                each.begin_slot()
        assert straight.detections == broken.detections
    assert [one.slot for one in straight.detections] == [1, 0, 1]
    one, other = straight.state(), broken.state()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[n], other[n], equal_nan=True) for n in one)


def test_without_it_nothing_of_a_slot_is_in_the_state() -> None:
    found = detector(recurring=False)
    live(found, [10.0, 2.0])
    state = found.state()
    assert state["detections"].shape == (1, 3)
    assert not [name for name in state if name.startswith("recurrence")]
    assert [one.slot for one in found.detections] == [-1]
