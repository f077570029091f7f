"""Callbacks of Stable-Baselines3 as a user writes them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback


class Looking(BaseCallback):
    """Logs, draws at random from everywhere, and changes nothing."""

    def _on_step(self) -> bool:
        drawn = random.random() + np.random.rand() + torch.rand(1).item()
        self.logger.record("own/drawn", drawn + self.model.action_space.sample().sum())
        self.logger.record("own/calls", self.n_calls)
        return True


class Cooling(BaseCallback):
    """Changes how training goes by what it remembers: each episode's end cools the rate."""

    def __init__(self, factor: float = 0.9, start: float = 1e-3) -> None:
        super().__init__()
        self.factor, self.rate = factor, start

    def _on_step(self) -> bool:
        for done in self.locals["dones"]:
            self.rate *= self.factor if done else 1.0
        self.model.lr_schedule = lambda _: self.rate
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rate = state["rate"]


class Stopping(BaseCallback):
    """Wants to end training."""

    def _on_step(self) -> bool:
        return self.n_calls < 20


class Hoarding(BaseCallback):
    """Remembers what no checkpoint can hold."""

    def _on_step(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model}


class Unrelated:
    """No callback."""
