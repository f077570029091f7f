"""Acting while learning: a policy's forward as a NumPy program, and draws from what it says.

A call of a small network costs torch ten times what its arithmetic does. The program is traced from
the policy's own modules, whatever methods put into them, and reads the parameters where they are:
it always acts as the policy of now. What NumPy cannot do, or does more slowly, torch does.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import nn

from holdfast.agents.base.greedy_action import most_likely
from holdfast.agents.compiled.distributions import Choices, Floats, Masks, distribution_of
from holdfast.agents.compiled.forward import Forward, fits
from holdfast.errors import UsageError

_LONG = 5
"""Steps for which it pays to copy matrices into the order that NumPy multiplies faster."""


class Acted(NamedTuple):
    """What a policy does and says of it, a row for each environment.

    Attributes:
        actions: As the policy's distribution has them, before they are clipped.
        values: Of the observations, shape (rows,).
        log_probs: Of the actions, shape (rows,).
    """

    actions: NDArray[Any]
    values: Floats
    log_probs: Floats


class Actor(Protocol):
    """An actor with a critic, as on-policy algorithms have it."""

    @property
    def is_current(self) -> bool:
        """Whether it is still that of the policy."""

    def refresh(self, steps: int) -> None:
        """Take the weights that the policy has now, for so many steps."""

    def act(self, observations: Any, masks: Masks = None) -> Acted:
        """Draw actions."""

    def values(self, observations: Any) -> Floats:
        """Return the value of each observation, shape (rows,)."""


# -- on-policy -------------------------------------------------------------------------------------


def actor_critic(model: Any, observations: Any) -> Actor:
    """Return what acts for PPO, A2C and MaskablePPO: in NumPy where that can be, else in torch.

    Args:
        model: The algorithm.
        observations: An example, as the model's environments give them.
    """
    in_torch = TorchActor(model)
    if not fits(model.policy, model.n_envs):
        return in_torch
    try:
        in_numpy = NumpyActor(model, observations)
    except UsageError:
        return in_torch
    return in_numpy if in_numpy.agrees(observations) else in_torch


class TorchActor:
    """The model's own policy, called as Stable-Baselines3 calls it.

    Args:
        model: The algorithm.
    """

    is_current = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def refresh(self, steps: int) -> None:
        """Nothing is kept."""

    def act(self, observations: Any, masks: Masks = None) -> Acted:
        """Draw actions, with torch's generator."""
        model = self._model
        given = {} if masks is None else {"action_masks": masks}
        with torch.no_grad():
            found = model.policy(obs_as_tensor(observations, model.device), **given)
        actions, values, log_probs = (tensor.cpu().numpy() for tensor in found)
        return Acted(actions, values.reshape(-1), log_probs)

    def values(self, observations: Any) -> Floats:
        """Return the value of each observation, shape (rows,)."""
        model = self._model
        with torch.no_grad():
            found = model.policy.predict_values(obs_as_tensor(observations, model.device))
        values: Floats = found.cpu().numpy().reshape(-1)
        return values


class NumpyActor:
    """The model's policy as a NumPy program; actions are drawn with NumPy's global generator.

    Args:
        model: The algorithm.
        observations: An example, as the model's environments give them.

    Raises:
        UsageError: If NumPy cannot do what the policy does.
    """

    def __init__(self, model: Any, observations: Any) -> None:
        self._policy = model.policy
        self._shape = model.action_space.shape
        self._has_rows = model.n_envs > 1
        self._distribution = distribution_of(model.policy)
        self._program = Forward(self._distribution.said, model.policy, observations)

    @property
    def is_current(self) -> bool:
        """Whether the program is still that of the policy."""
        return self._program.is_current

    def refresh(self, steps: int) -> None:
        """Take the weights that the policy has now, for so many steps."""
        self._program.refresh(copied=self._has_rows and steps >= _LONG)

    def act(self, observations: Any, masks: Masks = None) -> Acted:
        """Draw actions."""
        said = self._program(observations)
        if masks is not None and isinstance(self._distribution, Choices):
            self._distribution.mask(said, masks)
        actions = self._distribution.draw(said)
        log_probs = self._distribution.log_likelihood(said, actions)
        return Acted(actions.reshape(-1, *self._shape), said["values"], log_probs)

    def values(self, observations: Any) -> Floats:
        """Return the value of each observation, shape (rows,)."""
        values: Floats = self._program(observations)["values"]
        return values

    def agrees(self, observations: Any) -> bool:
        """Return whether the policy's own forward says the same; a subclass may have another."""
        said = self._program(observations)
        with torch.no_grad():
            given = obs_as_tensor(observations, torch.device("cpu"))
            actions, values, log_probs = self._policy(given, deterministic=True)
        own = self._distribution.log_likelihood(said, actions.reshape(len(actions), -1).numpy())
        return _near(said["values"], values.reshape(-1)) and _near(own, log_probs)


def _near(found: Any, wanted: Any) -> bool:
    return np.allclose(found, np.asarray(wanted), rtol=1e-3, atol=1e-4, equal_nan=True)


# -- off-policy ------------------------------------------------------------------------------------


def predictor(model: Any, observations: Any) -> Predict:
    """Return what acts for DQN, QR-DQN, SAC, TQC, CrossQ, TD3 and DDPG, where NumPy can.

    Elsewhere it is the model's own ``predict``.

    Args:
        model: The algorithm.
        observations: An example, as the model's environments give them.
    """
    network = _acting_network(model)
    known = network is not None and type(model.policy).predict is BasePolicy.predict
    if not known or not fits(network, model.n_envs):
        return TorchPredictor(model)
    try:
        found = NumpyPredictor(model, network, observations)
    except UsageError:
        return TorchPredictor(model)
    return found if found.agrees(observations) else TorchPredictor(model)


def _acting_network(model: Any) -> Any:
    match model:
        case DQN():
            return model.policy.q_net
        case QRDQN():
            return model.policy.quantile_net
        case SAC() | TQC() | CrossQ() | TD3():
            return model.policy.actor
    return None


class Predict(Protocol):
    """Returns actions that explore, as the model's ``predict`` does."""

    @property
    def is_current(self) -> bool:
        """Whether it is still that of the policy."""

    def refresh(self) -> None:
        """Look for the parameters where they are now."""

    def __call__(self, observations: Any) -> NDArray[Any]:
        """Return an action for each environment, as the environments take them."""


class TorchPredictor:
    """The model's own ``predict``.

    Args:
        model: The algorithm.
    """

    is_current = True

    def __init__(self, model: Any) -> None:
        self._model = model

    def refresh(self) -> None:
        """Nothing is kept."""

    def __call__(self, observations: Any) -> NDArray[Any]:
        """Return an action for each environment."""
        actions: NDArray[Any] = self._model.predict(observations, deterministic=False)[0]
        return actions


class NumpyPredictor:
    """The network that acts as a NumPy program; it draws with NumPy's global generator.

    Args:
        model: The algorithm.
        network: Its actor, or its network of action values.
        observations: An example, as the model's environments give them.

    Raises:
        UsageError: If NumPy cannot do what the network does.
    """

    def __init__(self, model: Any, network: nn.Module, observations: Any) -> None:
        self._model = model
        self._shape = model.action_space.shape
        self._explores_by_rate = isinstance(model, DQN | QRDQN)
        self._is_stochastic = hasattr(network, "get_action_dist_params")
        said = _gaussian_said if self._is_stochastic else _said
        if isinstance(model, QRDQN):
            said = _mean_quantiles
        self._program = Forward(said, network, observations)

    @property
    def is_current(self) -> bool:
        """Whether the program is still that of the network."""
        return self._program.is_current

    def refresh(self) -> None:
        """Look for the parameters where they are now."""
        self._program.refresh()

    def __call__(self, observations: Any) -> NDArray[Any]:
        """Return an action for each environment."""
        model = self._model
        if self._explores_by_rate and np.random.rand() < model.exploration_rate:
            return np.array([model.action_space.sample() for _ in range(model.n_envs)])
        return self._actions(observations, is_noisy=self._is_stochastic)

    def _actions(self, observations: Any, *, is_noisy: bool) -> NDArray[Any]:
        said = self._program(observations)
        if self._explores_by_rate:
            chosen: NDArray[Any] = said.argmax(1).reshape(-1, *self._shape)
            return chosen
        actions = said
        if self._is_stochastic:
            mean, std = said
            if is_noisy:
                mean = mean + std * np.random.standard_normal(mean.shape).astype(mean.dtype)
            actions = np.tanh(mean)
        actions = actions.reshape(-1, *self._shape)
        unscaled: NDArray[Any] = self._model.policy.unscale_action(actions)
        return unscaled

    def agrees(self, observations: Any) -> bool:
        """Return whether the model's own ``predict`` says the same; a subclass may have another."""
        wanted, _ = self._model.predict(observations, deterministic=True)
        return _near(self._actions(observations, is_noisy=False), wanted)


def _said(network: Any, observations: Any) -> Any:
    return network(observations)


def _mean_quantiles(network: Any, observations: Any) -> Any:
    return network(observations).mean(dim=1)


def _gaussian_said(network: Any, observations: Any) -> Any:
    mean, log_std, _ = network.get_action_dist_params(observations)
    return mean, log_std.exp()


# -- measured --------------------------------------------------------------------------------------


class Greedy:
    """The most likely actions of a model: by NumPy where it says the same, else by ``predict``.

    Args:
        model: The algorithm.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: list[tuple[int, Forward]] = []
        self._chosen: dict[int, Forward | None] = {}
        self._is_traced = True

    def look(self) -> None:
        """Look at the policy again: its weights have changed, or what acts in it."""
        self._chosen.clear()

    def __call__(self, observations: Any) -> NDArray[Any]:
        """Return an action for each row of observations, as environments take them."""
        named = isinstance(observations, dict)
        rows = len(next(iter(observations.values())) if named else observations)
        if rows not in self._chosen:
            self._chosen[rows] = self._program(rows, observations)
        program = self._chosen[rows]
        if program is None:
            return self._predicted(observations)
        return self._shaped(program(observations))

    def _program(self, rows: int, observations: Any) -> Forward | None:
        """Return the program of the policy as it is now, traced where it is another one."""
        found = (one for count, one in self._known if count == rows and one.is_current)
        program = next(found, None) or self._traced(rows, observations)
        if program is not None:
            program.refresh(copied=rows > 1)
        return program

    def _traced(self, rows: int, observations: Any) -> Forward | None:
        policy = self._model.policy
        network = _acting_network(self._model) or policy
        known = type(policy).predict is BasePolicy.predict and fits(network, rows)
        if not (self._is_traced and known):
            return None
        try:
            program = Forward(most_likely, policy, observations)
            is_same = _near(self._shaped(program(observations)), self._predicted(observations))
        except UsageError:
            is_same = False
        if not is_same:
            self._is_traced = False  # nor will it be in other views
            return None
        self._known.append((rows, program))
        return program

    def _shaped(self, actions: NDArray[Any]) -> NDArray[Any]:
        if actions.dtype == bool:  # bits, which predict gives as numbers
            actions = actions.astype(np.float32)
        return actions.reshape(-1, *self._model.action_space.shape)

    def _predicted(self, observations: Any) -> NDArray[Any]:
        actions: NDArray[Any] = self._model.predict(observations, deterministic=True)[0]
        return actions
