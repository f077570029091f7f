"""Progressive columns: equations by hand, and old policies that stay bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from all_doors import rebuild
from torch import nn

from holdfast.continual.methods.architecture.progressive import ColumnHead, ColumnTrunk, Progressive
from holdfast.errors import UsageError


def _set(module: nn.Module, **values: float) -> None:
    """Load one value into all entries below each name; zeros elsewhere."""
    state = module.state_dict()
    for name, tensor in state.items():
        tensor.fill_(next((v for n, v in values.items() if f"{name}.".startswith(n)), 0.0))
    module.load_state_dict(state)


def _trunk(count: int, adapter: Any) -> tuple[ColumnTrunk, ColumnHead]:
    layers = [nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False), nn.ReLU()]
    trunk = ColumnTrunk(nn.Sequential(*layers), count, adapter)
    return trunk, ColumnHead(nn.Linear(1, 1, bias=False), 1, count, adapter)


def test_two_columns_by_hand() -> None:
    """Layers of width 1, no bias: h2 of column 1 = relu(w h1 + u h1 of column 0)."""
    trunk, head = _trunk(2, "linear")
    # Column 0: h1 = 2x, h2 = 4x.
    _set(trunk, **{"columns.0.": 2.0, "columns.1.": 3.0, "adapters.0.": 5.0})
    _set(head, **{"heads.0.": 1.0, "heads.1.": 7.0, "adapters.0.": 11.0})
    x = torch.tensor([[1.0]])
    # Column 1: h1 = 3, h2 = 3 * 3 + 5 * 2 = 19; output 7 * 19 + 11 * 4 = 177.
    assert trunk(x).tolist() == [[4.0, 19.0]]
    assert head(trunk(x)).item() == 177.0
    trunk.active = head.active = 0
    assert head(trunk(x)).item() == 4.0
    assert (trunk(-x) == 0).all()


def test_three_columns_with_perceptrons_by_hand() -> None:
    """Equation 2 at width 1: what earlier columns add is U relu(V alpha h + c).

    h1 of the columns: 2, 3, 4. Column 1: V (alpha h) + c = 10 (0.5 * 2) + 1 = 11; times U = 2 and
    with 3 * 3 of its own: h2 = 31. Column 2: 1 (2 * (2 + 3)) - 4 = 6; times 3, with 4 * 4: 34.
    """
    trunk, _ = _trunk(3, "mlp")
    first = {"adapters.0.0.alpha": 0.5, "adapters.0.0.project.weight": 10.0}
    second = {"adapters.1.0.alpha": 2.0, "adapters.1.0.project.weight": 1.0}
    first |= {"adapters.0.0.project.bias": 1.0, "adapters.0.0.out": 2.0}
    second |= {"adapters.1.0.project.bias": -4.0, "adapters.1.0.out": 3.0}
    _set(trunk, **{"columns.0.": 2.0, "columns.1.": 3.0, "columns.2.": 4.0}, **first, **second)
    x = torch.tensor([[1.0]])
    assert trunk(x).tolist() == [[4.0, 31.0, 34.0]]
    trunk.active = 1
    assert trunk(x).tolist() == [[4.0, 31.0]]


@pytest.mark.parametrize("adapter", ["linear", "mlp"])
def test_frozen_columns_side_by_side_equal_each_in_turn(adapter: Any) -> None:
    """Four columns with norms of their own, against the equations written out."""
    layers = [
        nn.Linear(3, 4),
        nn.LayerNorm(4),
        nn.Tanh(),
        nn.Linear(4, 5),
        nn.LayerNorm(5),
        nn.ELU(),
    ]
    trunk = ColumnTrunk(nn.Sequential(*layers), 4, adapter)
    trunk.load_state_dict({n: torch.randn_like(t) for n, t in trunk.state_dict().items()})
    x = torch.randn(7, 3)
    hidden: list[list[Any]] = []
    for column, blocks in enumerate(trunk.columns):
        below = x
        hidden.append([])
        for i, (linear, *after) in enumerate(blocks):  # type: ignore[arg-type]
            value = linear(below)
            if i and column:
                earlier = torch.cat([h[i - 1] for h in hidden[:column]], -1)
                value = value + trunk.adapters[column - 1][i - 1](earlier)  # type: ignore[index]
            for layer in after:
                value = layer(value)
            hidden[column].append(value)
            below = value
    torch.testing.assert_close(trunk(x), torch.cat([h[-1] for h in hidden], -1))
    assert trunk(x).requires_grad
    trunk.active = 2
    torch.testing.assert_close(trunk(x), torch.cat([h[-1] for h in hidden[:3]], -1))


def test_only_the_newest_column_learns() -> None:
    trunk = ColumnTrunk(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)), 3, "mlp")
    learning = {name.rsplit(".", 2)[0] for name, _ in trunk.named_parameters()}
    assert learning == {"columns.2.0", "columns.2.1", "adapters.1.0", "adapters.1"}


def test_a_new_column_starts_as_a_fresh_network() -> None:
    fresh = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh())
    x = torch.randn(5, 2)
    expected = fresh(x)
    for adapter in ("linear", "mlp"):
        trunk = ColumnTrunk(fresh, 3, adapter)
        torch.testing.assert_close(trunk(x)[:, -3:], expected)


@pytest.mark.thorough
@pytest.mark.parametrize("adapter", ["linear", "mlp"])
@pytest.mark.parametrize("case", ["ppo", "ppo-box", "dqn", "sac", "td3"])
def test_old_tasks_keep_their_policy_bit_for_bit(
    case: str, adapter: Any, check_old_policies_stay: Any
) -> None:
    """Deterministic actions after three later tasks, running normalisation included."""
    check_old_policies_stay(case, Progressive(adapter=adapter))


@pytest.mark.thorough
@pytest.mark.parametrize(("algorithm", "adapter"), [("ppo", "mlp"), ("sac", "linear")])
def test_a_restart_changes_nothing(algorithm: str, adapter: str, check_restart: Any) -> None:
    normalize = {"normalize": {"observations": "running"}}
    check_restart(algorithm, {"progressive": {"adapter": adapter}}, agent=normalize)


def test_a_learning_features_extractor_is_refused() -> None:
    policy = nn.Module()
    policy.features_extractor = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="vector observations"):
        rebuild(Progressive(), policy)


@pytest.mark.thorough
def test_unseen_tasks_are_marked(run: Any) -> None:
    scores = run("ppo", "progressive", tasks=2).scores()
    marked = {(s["step"], s["task"]) for s in scores if s["unseen"]}
    # From 256 on the second task is being learned: its column is the newest, and its own.
    assert marked == {(step, "t1") for step in (0, 64, 128, 192, 256)}
