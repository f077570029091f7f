"""A-GEM, GEM and PCGrad: by hand, against a reference projection, and inside learning."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from holdfast.agents.algorithms import losses
from holdfast.agents.base.parameters import joined
from holdfast.continual.methods.rehearsal.agem import AGEM, project_away
from holdfast.continual.methods.rehearsal.episodic import EpisodicMemory
from holdfast.continual.methods.rehearsal.gem import GEM, project_into_cone
from holdfast.continual.methods.rehearsal.pcgrad import PCGrad, project_in_turn

Matrix = NDArray[np.float64]


def _vectors(seed: int, tasks: int = 4, width: int = 6) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    return torch.as_tensor(rng.normal(size=width)), torch.as_tensor(rng.normal(size=(tasks, width)))


def _nearest_in_cone(gradient: Matrix, references: Matrix) -> Matrix:
    """Return the nearest x with references @ x >= 0, by trying every set of active constraints."""
    best, distance = np.zeros_like(gradient), np.inf
    for size in range(len(references) + 1):
        for active in itertools.combinations(range(len(references)), size):
            rows = references[list(active)]
            weights = np.linalg.solve(rows @ rows.T, -rows @ gradient)
            x = gradient + weights @ rows
            gap = float(((x - gradient) ** 2).sum())
            if (references @ x >= -1e-9).all() and gap < distance:
                best, distance = x, gap
    return best


# -- A-GEM -----------------------------------------------------------------------------------------


def test_agem_by_hand() -> None:
    """g.r = -6 and r.r = 9: a third of r, twice."""
    projected = project_away(torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0]))
    assert projected.tolist() == [1.0, 0.0]
    for reference in (torch.tensor([0.0, 3.0]), torch.zeros(2)):
        assert project_away(torch.tensor([1.0, 2.0]), reference).tolist() == [1.0, 2.0]


@pytest.mark.parametrize("seed", range(8))
def test_agem_is_the_nearest_gradient_that_meets_one_constraint(seed: int) -> None:
    gradient, references = _vectors(seed, tasks=1)
    actual = project_away(gradient, references[0]).numpy()
    expected = _nearest_in_cone(gradient.numpy(), references.numpy())
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


# -- GEM -------------------------------------------------------------------------------------------


def test_gem_by_hand() -> None:
    """Two constraints at right angles: each takes its own component, or adds the least weight."""
    gradient = torch.tensor([1.0, -1.0], dtype=torch.float64)
    references = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    projected = project_into_cone(gradient, references)
    assert projected is not None
    np.testing.assert_allclose(projected, [1.0, 0.0], atol=1e-7)
    strengthened = project_into_cone(gradient, references, 0.5)
    assert strengthened is not None
    np.testing.assert_allclose(strengthened, [1.5, 0.0], atol=1e-7)
    assert project_into_cone(-gradient, -references.flip(0)) is not None
    assert project_into_cone(torch.ones(2), references.float()) is None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_gem_is_the_nearest_gradient_that_meets_all_constraints(seed: int, tasks: int) -> None:
    gradient, references = _vectors(seed, tasks)
    projected = project_into_cone(gradient, references)
    expected = _nearest_in_cone(gradient.numpy(), references.numpy())
    actual = (gradient if projected is None else projected).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_gem_with_a_strength_solves_the_bounded_program(seed: int) -> None:
    gradient, references = _vectors(seed)
    references[0] = -gradient + 0.1 * references[0]  # a conflict in any case
    projected = project_into_cone(gradient, references, 0.5)
    g, rows = gradient.numpy(), references.numpy()
    found = minimize(
        lambda v: 0.5 * ((g + v @ rows) ** 2).sum(),
        np.ones(4),
        jac=lambda v: rows @ (g + v @ rows),
        bounds=[(0.5, None)] * 4,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000},
    )
    assert projected is not None
    np.testing.assert_allclose(projected.numpy(), g + found.x @ rows, atol=1e-5)
    assert (references @ projected).min() >= -1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_gem_meets_constraints_of_any_length(scale: float) -> None:
    """Parallel ones and ones that are nothing at all included."""
    gradient, references = _vectors(3)
    references[1], references[2] = 2 * references[0], 0.0
    references[0] *= torch.sign(-references[0] @ gradient)
    references[1] = 2 * references[0]
    projected = project_into_cone(gradient, references * scale)
    assert projected is not None
    unit = torch.nn.functional.normalize(references, dim=1)
    assert (unit @ projected).min() >= -1e-7
    expected = project_into_cone(gradient, references[[0, 3]])
    assert expected is not None
    torch.testing.assert_close(projected, expected, rtol=1e-6, atol=1e-7)


def test_gem_without_its_solver_is_refused(refusal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    published = importlib.util.find_spec
    assert refusal("gem") == ""
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "quadprog" else published(name)
    )
    assert "needs the package 'quadprog', which is not installed; install it" in refusal("gem")
    assert refusal("agem") == ""


# -- PCGrad ----------------------------------------------------------------------------------------


def test_pcgrad_by_hand_and_in_order() -> None:
    """g = (1, 0) against a = (-1, 1) and b = (0, -1).

    a first: g - (-1 / 2) a = (1/2, 1/2), which conflicts with b: (1/2, 0). b first: no conflict;
    then a: (1/2, 1/2) stays, though it conflicts with b now.
    """
    gradient = torch.tensor([1.0, 0.0])
    references = torch.tensor([[-1.0, 1.0], [0.0, -1.0]])
    first, products = project_in_turn(gradient, references, torch.tensor([0, 1]))
    second, _ = project_in_turn(gradient, references, torch.tensor([1, 0]))
    assert first.tolist() == [0.5, 0.0]
    assert products.tolist() == [-1.0, -0.5]
    assert second.tolist() == [0.5, 0.5]
    free, products = project_in_turn(gradient, -references, torch.tensor([0, 1]))
    assert free.tolist() == gradient.tolist()
    assert (products >= 0).all()


# -- inside learning -------------------------------------------------------------------------------


def slow(*cases: str) -> list[Any]:
    """Return cases of which one of a kind is tried every time."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


METHODS: dict[str, Any] = {
    "agem": AGEM,
    "per_network": lambda **keys: AGEM(dot_product="per_network", **keys),
    "gem": GEM,
    "gem-0": lambda **keys: GEM(memory_strength=0.0, **keys),
    "pcgrad": PCGrad,
}


def _group(name: str) -> str:
    return "critic" if "value" in name or name.startswith("critic.") else "actor"


def _record_gradients(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Return a list that every gradient on stored rows is put into; every other one is turned.

    Losses of values pull alike in all tasks this small, so that conflicts would be rare.
    """
    seen: list[dict[str, Tensor]] = []
    published, signs = losses.loss_gradient, itertools.cycle([-1.0, 1.0, 1.0, -1.0])

    def loss_gradient(*args: Any) -> dict[str, Tensor]:
        sign = next(signs)
        seen.append({name: sign * gradient for name, gradient in published(*args).items()})
        return seen[-1]

    monkeypatch.setattr(losses, "loss_gradient", loss_gradient)
    return seen


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "sac", *slow("ppo-box", "dqn", "td3")])
@pytest.mark.parametrize("name", METHODS)
def test_steps_are_taken_with_gradients_that_do_not_conflict(
    name: str, case: str, learn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the optimizer sees, against the very reference gradients of that update."""
    method, references = METHODS[name](samples=64, batch_size=32), _record_gradients(monkeypatch)
    owners: list[str] = []
    changed = 0

    def before(parameters: dict[str, Tensor], gradients: dict[str, Tensor], *_: Any) -> Any:
        references.clear()
        before.given = {n: g.clone() for n, g in gradients.items()}  # type: ignore[attr-defined]
        return {}, {}

    def after(parameters: dict[str, Tensor], gradients: dict[str, Tensor], *_: Any) -> Any:
        nonlocal changed
        owners.append(next(iter(parameters)).split(".")[0])
        given = before.given  # type: ignore[attr-defined]
        parts = {name: _group(name) if method_is_apart else "all" for name in gradients}
        for part in set(parts.values()):
            own = [n for n in gradients if parts[n] == part]
            step, old = (joined({n: g[n] for n in own}) for g in (gradients, given))
            products = torch.stack([joined({n: r[n] for n in own}) for r in references]) @ step
            lengths = torch.stack([joined({n: r[n] for n in own}).norm() for r in references])
            changed += not torch.equal(step, old)
            if name != "pcgrad":
                assert (products / lengths.clamp_min(1e-30) >= -1e-4 * step.norm() - 1e-9).all()
        return {}, {}

    method_is_apart = name == "per_network"
    stage = 0
    given_pre_adapt = method.pre_adapt

    def pre_adapt(doors: Any, experience: Any) -> None:
        nonlocal stage
        if stage > 0:
            doors.gradients.project(before)
        given_pre_adapt(doors, experience)
        if stage > 0:
            doors.gradients.project(after)
        stage += 1

    method.pre_adapt = pre_adapt
    for agent, _ in learn(case, method, tasks=3):
        two = hasattr(agent.policy, "critic")
    expected = {"gem": 2, "gem-0": 2, "pcgrad": 2}.get(name, 1)
    assert len(references) == expected  # of the last update: one per finished task, or one of all
    assert changed > 0
    assert set(owners) >= ({"actor", "critic"} if two else {owners[0]})


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "algorithm"), [("agem", "ppo"), ("gem", "ppo"), ("pcgrad", "sac")]
)
def test_without_a_conflict_it_is_naive_bit_for_bit(
    name: str, algorithm: str, run: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    naive = weights(run(algorithm, tasks=2, runs="naive"))
    calls = 0
    published = losses.loss_gradient

    def loss_gradient(*args: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        return {n: torch.zeros_like(g) for n, g in published(*args).items()}

    monkeypatch.setattr(losses, "loss_gradient", loss_gradient)
    kept = weights(run(algorithm, name, tasks=2))
    assert calls > 0
    assert all(torch.equal(kept[key], tensor) for key, tensor in naive.items())


@pytest.mark.thorough
@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("sac", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["agem", "gem", "pcgrad"])
def test_a_restart_changes_nothing(name: str, algorithm: str, check_restart: Any) -> None:
    check_restart(algorithm, {name: {"samples": 64, "batch_size": 32}})


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["agem", *slow("gem", "pcgrad")])
def test_it_differs_from_naive_and_is_the_same_again(
    name: str, run: Any, weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _record_gradients(monkeypatch)
    naive, first = weights(run("ppo", tasks=2)), weights(run("ppo", name, tasks=2))
    again = weights(run("ppo", name, tasks=2, runs="again"))
    assert any(not torch.equal(first[key], tensor) for key, tensor in naive.items())
    assert all(torch.equal(first[key], tensor) for key, tensor in again.items())


@pytest.mark.thorough
@pytest.mark.parametrize("task_id", ["heads", *slow("hidden")])
def test_heads_and_hidden_tasks(task_id: str, run: Any) -> None:
    scores = run("ppo", "agem", tasks=3, stream={"task_id": task_id}).scores()
    assert np.isfinite([score["return"] for score in scores]).all()
    assert len({score["task"] for score in scores}) == 3


def test_the_share_of_projected_updates_is_logged(learn: Any) -> None:
    method = AGEM(samples=64, batch_size=32)
    logged: list[float] = []
    stages = 0
    for agent, _ in learn("ppo", method, tasks=2):
        stages += 1
        logged.append(agent.model.logger.name_to_value.get("method/agem/projected", -1.0))
    assert stages == 2
    assert logged[0] == -1.0  # nothing is protected in the first task
    assert 0.0 <= logged[1] <= 1.0
    assert isinstance(method.stored, EpisodicMemory)
    assert len(method.stored) == 2
