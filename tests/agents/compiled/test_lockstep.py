"""Agents in lockstep: who runs when, who meets whom, and what becomes of an update."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from compiled_agents import numbers, off_policy, on_policy, trained
from stable_baselines3 import DQN, PPO, SAC, TD3

from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.compiled.engine import Engine
from holdfast.agents.compiled.lockstep import Lockstep, Member, here
from holdfast.agents.doors.gradients import Works
from holdfast.continual.jobs.lockstep_cells import Scene


def side_by_side(bodies: list[Callable[[], None]]) -> None:
    before = Scene()
    try:
        Lockstep([Scene() for _ in bodies]).run(bodies)
    finally:
        before.enter()


def place() -> Member:
    member = here()
    assert member is not None
    return member


# -- who runs when ---------------------------------------------------------------------------------


def test_offers_of_one_kind_are_taken_together_when_all_wait_or_have_ended() -> None:
    taken: list[list[int]] = []
    results: dict[int, list[int]] = {}

    def together(parts: list[int]) -> list[int]:
        taken.append(parts)
        return [10 * part for part in parts]

    def body(number: int, meetings: int) -> None:
        results[number] = [
            place().meet((number + meeting) % 2 == 0 and "even", number, together)
            for meeting in range(meetings)
        ]

    assert here() is None
    side_by_side([partial(body, 0, 2), partial(body, 1, 1), partial(body, 2, 3)])
    assert here() is None
    assert sorted(sorted(parts) for parts in taken[:2]) == [[0, 2], [1]]
    # 1 has ended: the others, both of the odd kind now, meet without it; then 2 is alone.
    assert [sorted(parts) for parts in taken[2:]] == [[0, 2], [2]]
    assert results == {0: [0, 0], 1: [10], 2: [20, 20, 20]}


def test_only_one_runs_at_a_time() -> None:
    inside = threading.Lock()

    def body() -> None:
        for _ in range(20):
            assert inside.acquire(blocking=False)
            time.sleep(0.001)
            inside.release()
            place().meet("all", None, lambda parts: parts)

    side_by_side([body] * 3)


def test_what_goes_wrong_in_a_meeting_is_raised_in_each_of_those_who_met() -> None:
    raised: list[str] = []

    def together(parts: list[int]) -> list[int]:
        raise ArithmeticError(f"of {len(parts)}")

    def body() -> None:
        with pytest.raises(ArithmeticError, match="of 3"):
            place().meet("all", 1, together)
        raised.append("once")

    side_by_side([body] * 3)
    assert raised == ["once"] * 3


def test_one_that_fails_ends_alone_and_is_told_at_the_end() -> None:
    ended: list[int] = []

    def body(number: int) -> None:
        for step in range(4):
            if (number, step) == (1, 2):
                raise ZeroDivisionError("its own")
            place().meet("all", step, lambda parts: parts)
        ended.append(number)

    with pytest.raises(ZeroDivisionError, match="its own"):
        side_by_side([partial(body, number) for number in range(3)])
    assert sorted(ended) == [0, 2]


def test_each_draws_as_if_it_were_alone() -> None:
    def drawn(seed: int) -> list[float]:
        random.seed(seed)
        np.random.seed(seed)
        found = []
        for _ in range(3):
            # One of NumPy's normal draws leaves another for the next.
            found += [random.random(), random.gauss(0, 1), np.random.normal()]
            if (member := here()) is not None:
                member.meet("all", None, lambda parts: parts)
        return found

    results: dict[int, list[float]] = {}

    def body(seed: int) -> None:
        results[seed] = drawn(seed)

    random.seed(7)
    np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    side_by_side([partial(body, seed) for seed in range(3)])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert results == {seed: drawn(seed) for seed in range(3)}


def test_a_keyboard_interrupt_is_raised_in_all_of_them() -> None:
    stopped: list[int] = []
    waits = threading.Event()

    def body(number: int) -> None:
        try:
            if number:
                place().meet("all", None, lambda parts: parts)
            waits.set()
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            stopped.append(number)
            raise

    def interrupt() -> None:
        waits.wait()
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            side_by_side([partial(body, number) for number in range(3)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped[0] == 0  # which ran; the others waited, or had not begun


# -- what becomes of updates -----------------------------------------------------------------------


def learned(
    make: Callable[..., Any], seeds: tuple[int, ...], *, in_lanes: bool, **given: int
) -> Any:
    """Return what ``train`` makes of models of these seeds, in lockstep or each alone."""
    found: dict[int, Any] = {}
    calls = given.pop("calls")

    def body(seed: int) -> None:
        model = make(seed=seed)
        with Engine(model, Works(), GradientNorms()).attached():
            logged = trained(model, calls, **given)["logged"]
        figures = [figure for one in logged for figure in one.values()]
        found[seed] = numbers(model) | {"logged": np.array(figures)}

    if in_lanes:
        side_by_side([partial(body, seed) for seed in seeds])
    else:
        for seed in seeds:
            body(seed)
    return found


def actor_and_critic(
    algorithm: Any, width: int, *, calls: int
) -> tuple[Any, dict[str, int], float]:
    nets = {"net_arch": [width, width]}
    make = partial(off_policy, algorithm, "Pendulum-v1", policy_kwargs=nets)
    return make, {"calls": calls, "gradient_steps": 1, "batch_size": 32}, 1e-9


LIMITED: dict[str, Any] = {"target_kl": 0.01, "learning_rate": 3e-3, "n_steps": 256, "n_envs": 2}
CASES: dict[str, Any] = {
    "ppo": (partial(on_policy, PPO, "CartPole-v1", double=False), {"calls": 1}, 5e-7),
    "ppo to a limit": (
        partial(on_policy, PPO, "CartPole-v1", **LIMITED),
        {"calls": 2},
        1e-9,
    ),
    "dqn": (
        partial(off_policy, DQN, "CartPole-v1", double=False),
        {"calls": 80, "gradient_steps": 4, "batch_size": 32},
        5e-7,
    ),
    "sac": actor_and_critic(SAC, 32, calls=30),
    "sac with large arrays": actor_and_critic(SAC, 160, calls=5),
    "td3": actor_and_critic(TD3, 32, calls=30),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_seed_is_the_same_bits_beside_any_and_near_one_that_learns_alone(
    name: str, request: pytest.FixtureRequest
) -> None:
    make, given, near = CASES[name]
    if near < 1e-8:
        request.getfixturevalue("double")
    sizes = ((0, 1), (2, 0, 1), (1,), (*range(8, 15), 1)) if name != "ppo" else ((0, 1), (2, 0, 1))
    found = [learned(make, seeds, in_lanes=True, **given) for seeds in sizes]
    for other in found[1:]:
        for seed in {0, 1} & other.keys():
            for quantity, value in found[0][seed].items():
                assert value.tobytes() == other[seed][quantity].tobytes(), (seed, quantity)
    assert found[0][0]["logged"].tobytes() != found[0][1]["logged"].tobytes()
    alone = learned(make, (0, 1), in_lanes=False, **given)
    for seed, own in alone.items():
        for quantity, value in own.items():
            if quantity != "logged":
                np.testing.assert_allclose(
                    found[0][seed][quantity], value, rtol=0, atol=near, err_msg=quantity
                )


@pytest.mark.slow
def test_what_a_trace_has_frozen_is_each_ones_own() -> None:
    """The entropy's coefficient is a number in the program: unequal ones do not share it."""

    def make(seed: int) -> Any:
        return on_policy(
            PPO, "CartPole-v1", double=False, n_steps=64, seed=seed, ent_coef=0.5 * seed
        )

    together = learned(make, (0, 1), in_lanes=True, calls=1)
    for seed, own in learned(make, (0, 1), in_lanes=False, calls=1).items():
        for quantity, value in own.items():
            if quantity != "logged":
                np.testing.assert_allclose(together[seed][quantity], value, rtol=0, atol=5e-7)
