"""Generate and test: utilities and replacements by hand, the output kept, restarts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.agents.base.parameters import named_parameters
from holdfast.agents.doors.gradients import Rewritten, Work, Works
from holdfast.agents.modules.options import CReLU
from holdfast.agents.modules.units import HiddenLayer, Outgoing, activations, hidden_layers
from holdfast.agents.sb3.updates import Updates
from holdfast.continual.methods.plasticity.continual_backprop import (
    ContinualBackprop,
    contributions,
)

FAST = {"replacement_rate": 0.05, "maturity": 3, "samples": 16}
RELU = {"policy_kwargs": {"net_arch": [8, 8], "activation": "relu"}}


def _layer(columns: list[list[int]]) -> HiddenLayer:
    reader = Outgoing("out", "out_bias", torch.tensor(columns))
    return HiddenLayer("h", len(columns), "in", ("in", "in_bias"), (reader,))


def _parameters() -> dict[str, Tensor]:
    return {
        "in": torch.ones(3, 2),
        "in_bias": torch.zeros(3),
        "out": torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, -0.5]]),
        "out_bias": torch.tensor([10.0, 20.0]),
    }


def test_utility_and_replacement_by_hand() -> None:
    """Outgoing sums 1, 3, 1; mean |h| of 4, 1 and 2: contributions 4, 3 and 2."""
    layer, parameters = _layer([[0], [1], [2]]), _parameters()
    activity = torch.tensor([[4.0, -1.0, 1.0], [4.0, 1.0, 3.0]])
    assert contributions(layer, torch.tensor([[4.0], [1.0], [2.0]]), parameters).tolist() == [
        4,
        3,
        2,
    ]

    method = ContinualBackprop(replacement_rate=0.2, maturity=2, decay=0.5)
    # Ages 1 and 2 are not above 2. From the third on 3 x .2 units are due per update: .6, then 1.2.
    masks = [method.test(layer, activity, parameters) for _ in range(4)]
    assert masks[:3] == [None, None, None]
    assert masks[3] is not None
    assert masks[3].tolist() == [False, False, True]
    state = method.state()
    assert state["h/due"].item() == pytest.approx(0.2)
    assert state["h/age"].tolist() == [4.0, 4.0, 4.0]
    # 1 - .5^4 of the contribution has been reached.
    assert state["h/utility"].tolist() == pytest.approx([4 * 15 / 16, 3 * 15 / 16, 2 * 15 / 16])

    fresh = {"in": 7 * torch.ones(3, 2), "in_bias": 8 * torch.ones(3)}
    values, renewed, copied, _ = method.replace(parameters, [(layer, masks[3])], fresh, ())
    assert values["in"].tolist() == [[1.0, 1.0], [1.0, 1.0], [7.0, 7.0]]
    assert values["in_bias"].tolist() == [0.0, 0.0, 8.0]
    assert values["out"].tolist() == [[1.0, -2.0, 0.0], [0.0, 1.0, 0.0]]
    # The unit gave 2 on average (corrected for the start from zero): .5 x 2 and -.5 x 2.
    assert values["out_bias"].tolist() == pytest.approx([11.0, 19.0])
    assert "out_bias" not in renewed
    assert not copied
    assert method.state()["h/age"].tolist() == [4.0, 4.0, 0.0]
    assert method.state()["h/utility"][2] == 0
    assert method.state()["h/mean"][2] == 0

    # A replaced unit is protected again: .2 + 2 x .2 and so on, from the other two.
    again = [method.test(layer, activity, parameters) for _ in range(2)]
    assert again[0] is None
    assert again[1] is not None
    assert again[1].tolist() == [False, True, False]


def test_both_halves_of_a_crelu_unit_count() -> None:
    """Outputs 0 and 2 are those of unit 0: (1 + .5 + .5) and so on."""
    layer = _layer([[0, 2], [1, 3]])
    out = torch.tensor([[1.0, -2.0, 0.5, 3.0]])
    magnitudes = torch.tensor([[1.0, 2.0], [4.0, 0.0]])
    assert contributions(layer, magnitudes, {"out": out}).tolist() == [1 * 1 + 2 * 0.5, 4 * 2]


def test_targets_take_the_bias_and_new_readers_keep_theirs() -> None:
    layer, parameters = _layer([[0], [1], [2]]), _parameters()
    method = ContinualBackprop(replacement_rate=1.0, maturity=0)
    mask = method.test(layer, torch.ones(1, 3), parameters)
    assert mask is not None
    assert mask.all()
    fresh = {"in": torch.zeros(3, 2), "in_bias": torch.zeros(3)}
    values, renewed, copied, _ = method.replace(parameters, [(layer, mask)], fresh, {"out_bias"})
    assert copied["out_bias"].all()
    assert "out_bias" not in renewed  # its moments are not those of a replaced unit
    assert values["out_bias"].tolist() == pytest.approx([9.5, 20.5])


REPLACED = {60: 2, 61: 0, 150: 2, 151: 1, 700: 0}
"""Update after which a unit is replaced, and which one."""
UPDATES, RATE, DECAY = 900, 1e-2, 0.9


def _original(
    weights: dict[str, Any], gradients: list[dict[str, Any]], activity: Any, fresh: dict[str, Any]
) -> list[dict[str, Any]]:
    """Return the weights after every update by the authors' ``AdamGnT`` and ``gnt.py``.

    Each weight has its own number of steps. An epsilon of zero stands where it stands in torch.
    """
    weights = {name: w.copy() for name, w in weights.items()}
    first, second, steps = ({n: 0.0 * w for n, w in weights.items()} for _ in range(3))
    mean, ages, after = np.zeros(3), np.zeros(3), []
    for update in range(UPDATES):
        for name, gradient in gradients[update].items():
            steps[name] += 1
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            size = np.sqrt(1 - 0.999 ** steps[name]) / (1 - 0.9 ** steps[name])
            weights[name] -= RATE * size * first[name] / np.sqrt(second[name])
        ages += 1
        mean = DECAY * mean + (1 - DECAY) * activity[update].mean(0)
        if (unit := REPLACED.get(update)) is not None:
            weights["in"][unit], weights["in_bias"][unit] = fresh["in"][unit], 0.0
            given = weights["out"][:, unit] * mean[unit] / (1 - DECAY ** ages[unit])
            weights["out_bias"] += given
            weights["out"][:, unit] = 0.0
            for kept in (first, second, steps):
                kept["in"][unit], kept["in_bias"][unit], kept["out"][:, unit] = 0.0, 0.0, 0.0
            mean[unit] = ages[unit] = 0.0
        after.append({name: w.copy() for name, w in weights.items()})
    return after


@pytest.mark.thorough
@pytest.mark.parametrize("restart", [None, 300])
def test_replaced_weights_start_their_optimizer_again_as_in_the_original(
    restart: int | None,
) -> None:
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=w.shape) for name, w in _parameters().items()}
    fresh = {"in": rng.normal(size=(3, 2)), "in_bias": np.zeros(3)}
    gradients = [{n: rng.normal(size=w.shape) for n, w in start.items()} for _ in range(UPDATES)]
    activity = rng.normal(1.0, 1.0, size=(UPDATES, 4, 3))
    expected = _original(start, gradients, activity, fresh)

    layer, method, done = _layer([[0], [1], [2]]), ContinualBackprop(decay=DECAY), 0

    def rewrite(parameters: dict[str, Tensor], *_: Any) -> Rewritten | None:
        method.test(layer, torch.as_tensor(activity[done]), parameters)
        if done not in REPLACED:
            return None
        mask = torch.arange(3) == REPLACED[done]
        drawn = {name: torch.as_tensor(values) for name, values in fresh.items()}
        return method.replace(parameters, [(layer, mask)], drawn, {"out_bias"})

    def started(values: dict[str, Any]) -> tuple[dict[str, torch.nn.Parameter], Any]:
        weights = {n: torch.nn.Parameter(torch.as_tensor(v).clone()) for n, v in values.items()}
        optimizer = torch.optim.Adam(weights.values(), RATE, eps=0.0)
        target = {"out_bias": torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))}
        works = Works(rewrites=[Work(rewrite)])
        Updates().attach(works, weights, [optimizer], targets=target)
        return weights, optimizer

    weights, optimizer = started(start)
    for done in range(UPDATES):
        if done == restart:  # as a checkpoint holds them
            kept = copy.deepcopy(optimizer.state_dict())
            weights, optimizer = started({name: w.detach() for name, w in weights.items()})
            optimizer.load_state_dict(kept)
        optimizer.zero_grad()
        sum((w * torch.as_tensor(gradients[done][n])).sum() for n, w in weights.items()).backward()
        optimizer.step()
        for name, weight in weights.items():
            np.testing.assert_allclose(
                weight.detach(), expected[done][name], 1e-9, 1e-9, err_msg=f"{name} after {done}"
            )


@pytest.mark.parametrize("activation", ["relu", "crelu"])
def test_the_mean_output_is_kept(activation: str, train: Any) -> None:
    """Means measured on the same batch: the last layer's readers say the same on average."""
    agent = train(
        "sac", tasks=1, agent={"policy_kwargs": {"net_arch": [8, 8], "activation": activation}}
    )
    policy, method = agent.policy, ContinualBackprop(replacement_rate=1.0, maturity=0)
    observations = agent.policy_input({"": torch.rand(50, 4).numpy()})
    layer = next(
        one for one in hidden_layers(policy) if one.outgoing[0].weight == "actor.mu.weight"
    )
    parameters = {name: p.detach().clone() for name, p in named_parameters(policy).items()}
    (activity,) = activations(policy, observations, [layer.name]).values()
    assert isinstance(policy.get_submodule(layer.name), CReLU) == (activation == "crelu")
    mask = method.test(layer, activity, parameters)
    assert mask is not None
    assert mask.sum() == 8
    fresh = {name: parameters[name] for name in layer.incoming}
    values = method.replace(parameters, [(layer, mask)], fresh, ()).values
    before = activity @ parameters["actor.mu.weight"].T + parameters["actor.mu.bias"]
    after = activity @ values["actor.mu.weight"].T + values["actor.mu.bias"]
    torch.testing.assert_close(after.mean(0), before.mean(0))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("case", ["ppo", "dqn", "sac"])
def test_without_replacement_it_equals_naive(case: str, train: Any, same: Any) -> None:
    same(train(case), train(case, lambda: [ContinualBackprop(replacement_rate=0.0)]))


@pytest.mark.thorough
@pytest.mark.parametrize("case", ["ppo", "dqn", "sac", "td3"])
def test_a_restart_changes_nothing(case: str, train: Any, same: Any) -> None:
    methods: list[Any] = []

    def build() -> list[Any]:
        methods.append(ContinualBackprop(**FAST))
        return [methods[-1]]

    keys = {"agent": RELU, "stream": {"task_id": "heads"}}
    straight = train(case, build, **keys)
    same(straight, train(case, build, restart_after=1, **keys))
    first, last = methods[0].state(), methods[-1].state()
    assert first.keys() == last.keys()
    assert all(torch.equal(tensor, last[name]) for name, tensor in first.items())
    ages = torch.cat([tensor for name, tensor in first.items() if name.endswith("/age")])
    assert ages.min() < ages.max()  # some were replaced
    assert len(straight.policy.state_dict()) > 0


@pytest.mark.thorough
def test_a_run_says_what_is_kept(run: Any) -> None:
    folder = run("ppo", {"continual-backprop": FAST}, tasks=1, agent=RELU)
    assert folder.info()["status"] == "finished"
    # Utility, age and mean of 32 units in float32, and 4 layers' fractions in float64.
    assert folder.info()["stored_bytes"] == 3 * 32 * 4 + 4 * 8
