"""Acting while learning: a policy's forward as a NumPy program, and draws from what it says.

A call of a small network costs torch ten times what its arithmetic does. The program is traced from
the policy's own modules, whatever methods put into them, and reads the parameters where they are:
it always acts as the policy of now. What NumPy cannot do, or does more slowly, torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TQC, CrossQ
from sb3_contrib.common.maskable.distributions import MaskableBernoulliDistribution
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from holdfast.agents.base.parameters import called
from holdfast.agents.doors.outputs import output_spec
from holdfast.errors import UsageError

Masks = NDArray[np.bool_] | None
Floats = NDArray[np.float32]

_MOST_WEIGHTS = 1_000_000
"""Above it, torch multiplies several rows at once faster than NumPy, by more than a call costs."""

_LONG = 32
"""Steps for which it pays to copy matrices into the order that NumPy multiplies faster."""

_MASKED = np.float32(-1e8)
"""Logit of an action that a mask forbids, as in sb3_contrib."""

_HALF_LOG_TAU = np.float32(0.5 * np.log(2 * np.pi))

_PUBLISHED = ("torch", "stable_baselines3", "sb3_contrib")


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


# -- programs --------------------------------------------------------------------------------------


class Program:
    """A function of a network and of observations, on NumPy; the parameters are the network's own.

    Args:
        function: Of the network and of observations as it takes them, to tensors.
        network: The network.
        observations: An example, as arrays; every call gets as many rows.

    Raises:
        UsageError: If NumPy cannot do it, or the network is on a GPU.
    """

    def __init__(
        self, function: Callable[[Any, Any], Any], network: nn.Module, observations: Any
    ) -> None:
        # Here: tracing needs much of torch that nothing else does.
        from holdfast.agents.compiled.trace import traced

        self._network = network
        self._tensors = _tensors_of(network)
        if any(tensor.device.type != "cpu" for tensor in self._tensors.values()):
            raise UsageError("NumPy acts on the CPU alone")
        self._settings = _settings(network)
        self._seen = [own[name] for own, name in self._settings]
        self._kept = [(own, name) for own, name in self._settings if _is_tensors(own[name])]
        holding = _Holding(network)

        def of_tensors(tensors: dict[str, Tensor], kept: list[Any], observations: Any) -> Any:
            named = {f"network.{name}": tensor for name, tensor in tensors.items()}
            with _set(self._kept, kept):
                return called(holding, named, function, observations)

        example = obs_as_tensor(observations, torch.device("cpu"))
        kept = [own[name] for own, name in self._kept]
        with torch.no_grad():
            self._function = traced(of_tensors, self._tensors, kept, example).on(np)
        self._places: list[int] = []
        self._views: dict[str, NDArray[Any]] = {}
        self._kept_views: list[Any] = []
        self.refresh()

    @property
    def is_current(self) -> bool:
        """Whether the network is the one that was traced, its own settings included."""
        return all(
            _is_alike(own.get(name), seen)
            for (own, name), seen in zip(self._settings, self._seen, strict=True)
        )

    def refresh(self, *, copied: bool = False) -> None:
        """Look for the parameters where they are now.

        Args:
            copied: Whether matrices are copied column by column, until the next refresh. NumPy
                multiplies several rows with those up to four times faster.
        """
        self._kept_views = [_arrays(own[name]) for own, name in self._kept]
        places = [] if copied else [tensor.data_ptr() for tensor in self._tensors.values()]
        if not copied and places == self._places:
            return
        self._places = places
        self._views = {name: t.detach().numpy() for name, t in self._tensors.items()}
        if copied:
            for name, view in self._views.items():
                if view.ndim == 2:
                    self._views[name] = np.array(view, order="F")

    def __call__(self, observations: Any) -> Any:
        """Return what the function says of observations."""
        return self._function(self._views, self._kept_views, observations)


class _Holding(nn.Module):
    """Calls a function of a network while the network has other tensors for its parameters."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, function: Callable[[Any, Any], Any], observations: Any) -> Any:
        return function(self.network, observations)


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.named_parameters()) | dict(network.named_buffers())


_Setting = tuple[dict[str, Any], str]
"""The attributes of a module, and the name of one that is no part, parameter or buffer."""


def _settings(network: nn.Module) -> list[_Setting]:
    """Return what modules that are not torch's or Stable-Baselines3's keep besides."""
    return [
        (vars(module), name)
        for module in network.modules()
        if type(module).__module__.split(".")[0] not in _PUBLISHED
        for name in vars(module)
        if not name.startswith("_") and name != "training"
    ]


@contextmanager
def _set(settings: list[_Setting], values: list[Any]) -> Iterator[None]:
    saved = [own[name] for own, name in settings]
    try:
        for (own, name), value in zip(settings, values, strict=True):
            own[name] = value
        yield
    finally:
        for (own, name), value in zip(settings, saved, strict=True):
            own[name] = value


def _is_tensors(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(isinstance(one, Tensor) for one in value)
    return isinstance(value, Tensor)


def _arrays(value: Any) -> Any:
    """Return a tensor, or several, as arrays that share their memory."""
    if isinstance(value, Tensor):
        return value.detach().numpy()
    return [_arrays(one) for one in value]


def _is_alike(value: Any, seen: Any) -> bool:
    """Return whether a trace that saw one value holds for another."""
    if value is seen:
        return True
    if not (_is_tensors(value) and _is_tensors(seen)):
        return False
    if isinstance(value, Tensor) or isinstance(seen, Tensor):
        return isinstance(value, type(seen)) and value.shape == seen.shape
    return [one.shape for one in value] == [one.shape for one in seen]


def _fits(network: nn.Module, rows: int) -> bool:
    """Return whether NumPy is the faster one."""
    weights = sum(p.numel() for p in network.parameters() if p.dim() > 1)
    return rows == 1 or weights <= _MOST_WEIGHTS


# -- on-policy -------------------------------------------------------------------------------------


def actor_critic(model: Any, observations: Any) -> Actor:
    """Return what acts for PPO, A2C and MaskablePPO: in NumPy where that can be, else in torch.

    Args:
        model: The algorithm.
        observations: An example, as the model's environments give them.
    """
    in_torch = TorchActor(model)
    if not _fits(model.policy, model.n_envs):
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
        self._distribution = _distribution(model.policy)
        self._program = Program(self._distribution.said, model.policy, observations)

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
        if masks is not None:
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


# -- distributions ---------------------------------------------------------------------------------


class Distribution(Protocol):
    """A distribution of actions, as a program says it."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        """Return ``values`` and what the distribution is made of, as the policy's ``forward``."""

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        """Leave the actions that are allowed, shape (rows, all choices)."""

    def draw(self, said: Any) -> NDArray[Any]:
        """Draw actions, shape (rows, n), or (rows,) for one choice."""

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        """Return the log-likelihood of actions of shape (rows, n), shape (rows,)."""


def _distribution(policy: Any) -> Distribution:
    spec = output_spec(policy)
    if isinstance(policy.action_dist, MaskableBernoulliDistribution):
        return _Categoricals(list(policy.action_dist.action_dims))  # a choice of two for each bit
    match spec.kind:
        case "categorical":
            return _Categoricals(spec.splits) if spec.splits[1:] else _Categorical()
        case "bernoulli":
            return _Bernoulli()
    return _Gaussian()


def _latent(policy: Any, observations: Any) -> tuple[Tensor, Tensor]:
    """Return what the layer of actions puts out, and the values, shape (rows,)."""
    features = policy.extract_features(observations)
    if policy.share_features_extractor:
        for_actor, for_critic = policy.mlp_extractor(features)
    else:
        for_actor = policy.mlp_extractor.forward_actor(features[0])
        for_critic = policy.mlp_extractor.forward_critic(features[1])
    return policy.action_net(for_actor), policy.value_net(for_critic).reshape(-1)


class _Categorical:
    """One choice."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        return {"values": values, "log_probs": head.log_softmax(-1)}

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        said["log_probs"] = _masked(said["log_probs"], masks)

    def draw(self, said: Any) -> NDArray[np.int64]:
        log_probs = said["log_probs"]
        # Gumbel's trick: where log p + noise is largest is distributed as p.
        actions: NDArray[np.int64] = (log_probs + np.random.gumbel(size=log_probs.shape)).argmax(1)
        return actions

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        chosen: Floats = said["log_probs"][np.arange(len(actions)), actions.reshape(-1)]
        return chosen


def _masked(log_probs: Floats, masks: Any) -> Floats:
    """Return log-probabilities of what the masks leave, as sb3_contrib has them."""
    left = np.where(np.asarray(masks, bool).reshape(log_probs.shape), log_probs, _MASKED)
    left -= left.max(1, keepdims=True)
    normalized: Floats = left - np.log(np.exp(left).sum(1, keepdims=True))
    return normalized


class _Categoricals:
    """Several choices, independent of each other.

    Args:
        splits: How many there are to choose from, for each.
    """

    def __init__(self, splits: list[int]) -> None:
        self._one, self._splits = _Categorical(), splits
        self._ends = np.cumsum(splits).tolist()

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        parts = torch.split(head, self._splits, -1)
        return {"values": values, "log_probs": torch.cat([p.log_softmax(-1) for p in parts], -1)}

    def _parts(self, rows: Any) -> list[Any]:
        return [rows[:, end - n : end] for n, end in zip(self._splits, self._ends, strict=True)]

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        left = self._parts(masks.reshape(len(masks), -1))
        parts = zip(self._parts(said["log_probs"]), left, strict=True)
        said["log_probs"] = np.concatenate([_masked(own, mask) for own, mask in parts], 1)

    def draw(self, said: Any) -> NDArray[np.int64]:
        parts = self._parts(said["log_probs"])
        return np.stack([self._one.draw({"log_probs": own}) for own in parts], 1)

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        parts = zip(self._parts(said["log_probs"]), actions.T, strict=True)
        each = [self._one.log_likelihood({"log_probs": own}, chosen) for own, chosen in parts]
        total: Floats = np.add.reduce(each)
        return total


class _Bernoulli:
    """Bits, as floats like torch has them."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        return {"values": values, "logits": head}

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        raise NotImplementedError("sb3_contrib has choices of two where bits are masked")

    def draw(self, said: Any) -> Floats:
        logits: Floats = said["logits"]
        # The logit of a uniform number is distributed logistically.
        return (np.random.logistic(size=logits.shape) < logits).astype(logits.dtype)

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        logits: Floats = said["logits"]
        total: Floats = -np.logaddexp(0, np.where(actions > 0, -logits, logits)).sum(1)
        return total


class _Gaussian:
    """Independent Gaussians."""

    def said(self, policy: Any, observations: Any) -> dict[str, Tensor]:
        head, values = _latent(policy, observations)
        gaussian = policy.action_dist.proba_distribution(head, policy.log_std).distribution
        log_std = gaussian.scale.log()
        return {"values": values, "mean": gaussian.loc, "std": gaussian.scale, "log_std": log_std}

    def mask(self, said: Any, masks: NDArray[np.bool_]) -> None:
        raise NotImplementedError("sb3_contrib masks choices alone")

    def draw(self, said: Any) -> Floats:
        mean: Floats = said["mean"]
        noise = np.random.standard_normal(mean.shape).astype(mean.dtype)
        actions: Floats = mean + said["std"] * noise
        return actions

    def log_likelihood(self, said: Any, actions: NDArray[Any]) -> Floats:
        scaled = (actions - said["mean"]) / said["std"]
        parts = -0.5 * (scaled * scaled) - said["log_std"] - _HALF_LOG_TAU
        total: Floats = parts.sum(1)
        return total


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
    if not known or not _fits(network, model.n_envs):
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
        self._program = Program(said, network, observations)

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
