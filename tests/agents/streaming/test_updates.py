"""The parts of an update by hand: ObGD and its traces, moments, gradients, sparse weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Normal
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.streaming.moments import Moments
from holdfast.agents.streaming.networks import Arithmetic, SparseNetwork, sparse_
from holdfast.agents.streaming.obgd import ObGD
from holdfast.agents.streaming.stream_ac import categorical_gradient, gaussian_gradient


def test_two_steps_of_obgd_by_hand() -> None:
    """kappa 2, decay 0.5. First a step that is not bounded, then one that is."""
    weights = torch.tensor([1.0, -1.0], dtype=torch.float64)
    descent = ObGD(weights, lr=0.25, decay=0.5, kappa=2.0)
    # z = (0.5, -0.25), |z| = 0.75, delta = -0.5: 0.25 * 2 * 1 * 0.75 = 0.375 <= 1, so alpha = lr.
    assert descent.update(np.array([0.5, -0.25]), -0.5) == 0.25
    assert weights.tolist() == [1.0 - 0.0625, -1.0 + 0.03125]
    # z = (0.25 + 1, -0.125 - 0.625) = (1.25, -0.75), |z| = 2, delta = 4: 0.25 * 2 * 4 * 2 = 4 > 1,
    # so alpha = 0.25 / 4, and the step is 0.0625 * 4 * z = z / 4.
    assert descent.update(np.array([1.0, -0.625]), 4.0) == 0.0625
    assert weights.tolist() == [0.9375 + 0.3125, -0.96875 - 0.1875]
    assert descent.trace.tolist() == [1.25, -0.75]
    descent.clear()
    assert descent.trace.tolist() == [0.0, 0.0]


def test_a_trace_goes_through_a_checkpoint_into_the_memory_that_updates_use() -> None:
    one, other = (ObGD(torch.zeros(2), lr=1.0, decay=0.5, kappa=2.0) for _ in range(2))
    one.update(np.array([1.0, 2.0]), 0.5)
    other.load_state_dict(one.state_dict())
    assert other.trace.tolist() == [1.0, 2.0]
    other.update(np.zeros(2), 0.5)
    (kept,) = other.state_dict()["state"].values()
    assert kept["eligibility_trace"].tolist() == [0.5, 1.0]
    assert one.trace.tolist() == [1.0, 2.0]
    other.load_state_dict({"state": {}, "param_groups": []})
    assert other.trace.tolist() == [0.0, 0.0]


def test_moments_are_those_of_all_samples_and_move_by_updates_alone() -> None:
    samples = np.random.default_rng(0).normal(3.0, 2.0, (50, 4))
    moments = Moments((4,))
    first = moments(torch.tensor(samples[:1]))
    assert np.allclose(first.numpy(), samples[:1], rtol=1e-8)  # nothing is known yet
    for count, sample in enumerate(samples, 1):
        moments.update(sample)
        if count > 1:
            assert np.allclose(moments.variance(), samples[:count].var(axis=0, ddof=1), rtol=1e-12)
    assert np.allclose(moments.mean.numpy(), samples.mean(axis=0), rtol=1e-12)
    before = {name: tensor.clone() for name, tensor in moments.state_dict().items()}
    seen = moments(torch.tensor(samples))
    wanted = (samples - samples.mean(axis=0)) / np.sqrt(samples.var(axis=0, ddof=1) + 1e-8)
    assert np.allclose(seen.numpy(), wanted, rtol=1e-12)
    assert np.allclose(moments.centred(samples[7]), wanted[7], rtol=1e-12)
    assert all(tensor.equal(moments.state_dict()[name]) for name, tensor in before.items())


def test_loaded_moments_go_on_where_they_were() -> None:
    one, other = Moments(()), Moments(())
    one.update(np.float64(1.0))
    other.load_state_dict(one.state_dict())
    for moments in (one, other):
        moments.update(np.float64(5.0))
    assert float(other.mean) == 3.0
    assert other.variance() == one.variance() == 8.0


@pytest.mark.parametrize(("inputs", "zeros"), [(10, 9), (25, 23), (4, 4)])
def test_rows_are_sparse(inputs: int, zeros: int) -> None:
    """ceil(0.9 n) zeros in each row, as the authors have it: of four inputs none is connected."""
    weight = sparse_(torch.empty(30, inputs), 0.9)
    assert ((weight == 0).sum(dim=1) == zeros).all()
    assert weight.abs().max() <= 1 / math.sqrt(inputs)
    if zeros < inputs:
        places = {tuple(row.nonzero().flatten().tolist()) for row in weight}
        assert len(places) > 5  # at other places in each row


@pytest.mark.parametrize("hidden", [[], [5], [7, 6]])
def test_gradient_equals_autograd(hidden: list[int]) -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        network = SparseNetwork(Moments((3,)), 4, hidden, 2, sparsity=0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        network.flat += 0.1 * torch.randn(len(network.flat), dtype=torch.float64)
    seen, factors = np.array([0.3, -1.2, 0.8, 1.0]), np.array([0.7, -0.4])
    arithmetic = Arithmetic(network)
    outputs = arithmetic.forward(seen)
    told = network.layers(torch.tensor(seen))
    assert np.allclose(outputs, told.detach().numpy(), rtol=0, atol=1e-12)
    found = torch.autograd.grad(told @ torch.tensor(factors), list(network.layers.parameters()))
    wanted = torch.cat([gradient.flatten() for gradient in found]).numpy()
    assert np.allclose(arithmetic.backward(factors), wanted, rtol=0, atol=1e-10)
    # And the module, which adds the normalisation: an identity where nothing was seen.
    rows = network(torch.tensor(seen[None]))
    assert np.allclose(rows.detach().numpy()[0], outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("entropy", [0.0, 0.01, -0.3])
def test_gradients_of_distributions_equal_autograd(entropy: float) -> None:
    logits = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64, requires_grad=True)
    chosen: Any = Categorical(logits=logits)
    (chosen.log_prob(torch.tensor(2)) + entropy * chosen.entropy()).backward()
    assert logits.grad is not None
    found = categorical_gradient(logits.detach().numpy(), 2, entropy)
    assert np.allclose(found, logits.grad.numpy(), rtol=0, atol=1e-12)

    outputs = torch.tensor([0.3, -1.0, 0.5, -2.0], dtype=torch.float64, requires_grad=True)
    mean, spread = outputs.chunk(2)
    chosen, action = Normal(mean, F.softplus(spread)), torch.tensor([1.3, -1.1])
    (chosen.log_prob(action) + entropy * chosen.entropy()).sum().backward()
    assert outputs.grad is not None
    found = gaussian_gradient(outputs.detach().numpy(), action.double().numpy(), entropy)
    assert np.allclose(found, outputs.grad.numpy(), rtol=0, atol=1e-9)


def test_a_logit_of_no_chance_leaves_gradients_finite() -> None:
    found = categorical_gradient(np.array([0.0, -2000.0]), 0, 0.01)
    assert found.tolist() == [0.0, 0.0]
