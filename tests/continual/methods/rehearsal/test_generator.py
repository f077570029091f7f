"""The generative model of observations: its bound, and what it has learned to draw."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from holdfast.continual.methods.rehearsal.generator import new_generator, seeded


def test_the_loss_is_the_negative_evidence_lower_bound() -> None:
    """Against torch.distributions, up to half the logarithm of 2 pi per entry."""
    rng = np.random.default_rng(0)
    model = new_generator(3, 2, rng, latent=4, hidden=8)
    rows, tasks = torch.randn(5, 3) * 4 + 1, torch.eye(2)[[0, 1, 1, 0, 1]]
    model.standardise(rows)
    with torch.no_grad():
        model.decoder[-1].bias[3:] = torch.tensor([0.3, -0.2, -9.0])  # the last: below log .01
        loss = model.loss(rows, tasks, torch.Generator().manual_seed(1))
        x = (rows - rows.mean(0)) / rows.std(0, unbiased=False)
        mean, log_var = model.encoder(torch.cat([x, tasks], -1)).chunk(2, -1)
        posterior = Normal(mean, (0.5 * log_var).exp())
        noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
        z = mean + posterior.stddev * noise
        centre, log_std = model.decoder(torch.cat([z, tasks], -1)).chunk(2, -1)
        std = log_std.exp().clamp_min(0.01)
        assert (std[:, 2] == 0.01).all()
        likelihood = (Normal(centre, std).log_prob(x) + 0.5 * math.log(2 * math.pi)).sum(-1)
        prior = Normal(torch.zeros(4), torch.ones(4))
        bound = likelihood - kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(loss, -bound.mean())


def test_its_first_weights_are_drawn_from_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again = (new_generator(3, 2, np.random.default_rng(7), latent=2, hidden=4) for _ in "ab")
    other = new_generator(3, 2, np.random.default_rng(8), latent=2, hidden=4)
    assert torch.equal(torch.get_rng_state(), before)
    pairs = list(zip(one.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.encoder[0].weight, other.encoder[0].weight)


def test_an_entry_that_never_moved_is_drawn_as_it_was() -> None:
    rng = np.random.default_rng(0)
    model = new_generator(2, 0, rng, latent=2, hidden=4)
    rows = torch.stack([torch.randn(50), torch.full((50,), 3.0)], -1)
    model.standardise(rows)
    assert model.deviation[1] == 1.0
    assert torch.allclose(model.mean[1], torch.tensor(3.0))
    assert model.draw(torch.zeros(6, 0), seeded(rng, torch.device("cpu"))).shape == (6, 2)
