"""A small generative model of observations: a variational autoencoder that knows the task."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from holdfast import seeding

_LOG_STD = (math.log(1e-2), math.log(10.0))
"""Of a standardised entry: what never moves would otherwise be modelled ever more sharply."""


class Generator(nn.Module):
    """Observations as ``x = mean(z, task) + std(z, task) * noise`` with z from a standard normal.

    Source: Kingma & Welling 2013, Auto-Encoding Variational Bayes (arXiv:1312.6114), equation 10,
    with a Gaussian decoder (appendix C.2) that is told the task. Entries are standardised by
    ``mean`` and ``deviation``.

    Args:
        features: Entries of an observation without the task id.
        tasks: Width of the task id; 0 where there is none.
        latent: Entries of z.
        hidden: Width of the two hidden layers of encoder and decoder.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int, tasks: int, *, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.encoder = _perceptron(features + tasks, hidden, 2 * latent)
        self.decoder = _perceptron(latent + tasks, hidden, 2 * features)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def loss(self, rows: Tensor, tasks: Tensor, generator: torch.Generator) -> Tensor:
        """Return the negative evidence lower bound, a mean over rows, up to a constant.

        Args:
            rows: Observations, shape (batch, features).
            tasks: One-hot task ids, shape (batch, tasks).
            generator: Draws one z for each row.
        """
        x = (rows - self.mean) / self.deviation
        mean, log_var = self.encoder(torch.cat([x, tasks], -1)).chunk(2, -1)  # (batch, latent)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        centre, std = self.decode(mean + (0.5 * log_var).exp() * noise, tasks)
        misfit = (0.5 * ((x - centre) / std).square() + std.log()).sum(-1)
        divergence = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).sum(-1)
        loss: Tensor = (misfit + divergence).mean()
        return loss

    def decode(self, z: Tensor, tasks: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of standardised entries, each (batch, features)."""
        centre, log_std = self.decoder(torch.cat([z, tasks], -1)).chunk(2, -1)
        return centre, log_std.clamp(*_LOG_STD).exp()

    @torch.no_grad()
    def draw(self, tasks: Tensor, generator: torch.Generator) -> Tensor:
        """Return one new observation for each one-hot task id, shape (batch, features)."""
        shape, device = (len(tasks), self.latent), tasks.device
        z = torch.randn(shape, generator=generator, device=device)
        centre, std = self.decode(z, tasks)
        noise = torch.randn(centre.shape, generator=generator, device=device)
        return (centre + std * noise) * self.deviation + self.mean

    def standardise(self, rows: Tensor) -> None:
        """Take mean and deviation of rows; an entry that never moves keeps its scale."""
        deviation = rows.std(0, unbiased=False)
        self.mean.copy_(rows.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))


def new_generator(
    features: int, tasks: int, rng: np.random.Generator, *, latent: int, hidden: int
) -> Generator:
    """Return a generator whose first weights come from ``rng``, not from torch's own state."""
    with seeding.isolated(int(rng.integers(2**32))):
        return Generator(features, tasks, latent=latent, hidden=hidden)


def seeded(rng: np.random.Generator, device: torch.device) -> torch.Generator:
    """Return a torch generator that is seeded by a draw from ``rng``."""
    return torch.Generator(device=device).manual_seed(int(rng.integers(2**63)))


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
