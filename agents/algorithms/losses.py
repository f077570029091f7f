"""The loss of an algorithm as a function of named tensors and a batch: what ``train`` minimises.

Stable-Baselines3 has no such function: its ``train`` computes the loss between sampling and
stepping. Here it is written once more, on tensors that are given by name, so that methods can take
its gradient on stored data (A-GEM, GEM, PCGrad). Tests hold each against the gradient of ``train``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import torch
from sb3_contrib import QRDQN, TQC, MaskablePPO
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # its usual name

from holdfast.agents.algorithms.mixing import VDN, joint_loss, joint_targets
from holdfast.agents.base.parameters import Named, gradient_of, replaced
from holdfast.errors import UsageError

Batch = Mapping[str, Any]
"""Rows by the names of Stable-Baselines3's buffers; ``observations.<key>`` for Dict entries.

Beside them what ``inputs_of`` adds: ``others``, ``noise``, ``temperature``, ``clip_range``,
``clip_range_vf``."""

_Loss = Callable[[Any, Batch], tuple[Tensor, Named]]
"""A model and a batch to the loss, and to what ``train`` logs of its parts."""


class Others:
    """Tensors of a policy besides the parameters of a loss, found once for each set of them."""

    def __init__(self) -> None:
        self._policy: Any = None
        self._views: dict[str, Named] = {}
        self._buffers: Named = {}

    def of(self, policy: Any, parameters: Named) -> Named:
        """Return the policy's other tensors: parameters as they are now, copies of buffers."""
        if policy is not self._policy:
            self._policy, self._views, self._buffers = policy, {}, dict(policy.named_buffers())
        first = next(iter(parameters), "")
        known = self._views.get(first)
        if known is None or not known.keys().isdisjoint(parameters):
            named = policy.named_parameters()
            # Views: what is written into the parameters shows through them.
            known = {name: p.detach() for name, p in named if name not in parameters}
            self._views[first] = known
        return known | {name: buffer.clone() for name, buffer in self._buffers.items()}


def inputs_of(
    model: Any,
    parameters: Named,
    rows: Batch,
    generator: torch.Generator,
    others: Others | None = None,
) -> Batch:
    """Return all that the loss of these parameters depends on besides them, as named tensors.

    Args:
        model: A Stable-Baselines3 model.
        parameters: By their names in the policy; those that one optimizer moves, or some of them.
        rows: As ``memory.batch`` gives them.
        generator: Draws the noise of SAC's, TQC's and TD3's actions.
        others: Remembers what else the policy has; to be handed in at every update.

    Returns:
        The rows, the noise, and numbers of the model as they are now; under ``others`` the policy's
        other tensors: targets, the critic in the actor's loss. Buffers are copies, so that no
        running statistics move.
    """
    policy = model.policy
    inputs: dict[str, Any] = {**rows, "others": (others or Others()).of(policy, parameters)}
    match model:
        case PPO() | MaskablePPO():
            for name in ("clip_range", "clip_range_vf"):
                if (schedule := getattr(model, name)) is not None:
                    span = float(schedule(model._current_progress_remaining))
                    middle = 1.0 if name == "clip_range" else 0.0  # of a ratio, or of a step
                    ends = (middle - span, middle + span)
                    low, high = torch.tensor(ends, dtype=torch.float64).to(model.device)
                    inputs[name] = [low, high]
        case SAC() | TQC():
            learned = model.log_ent_coef  # None where the entropy coefficient is fixed
            temperature = model.ent_coef_tensor if learned is None else learned.detach().exp()
            inputs["temperature"] = temperature
            shape, dtype = rows["actions"].flatten(1).shape, next(policy.parameters()).dtype
            noise = torch.empty(shape, dtype=dtype, device=model.device)
            inputs["noise"] = noise.normal_(generator=generator)
        case TD3() if _is_critic(parameters):
            noise = torch.empty_like(rows["actions"])
            span = model.target_noise_clip
            noise = noise.normal_(0, model.target_policy_noise, generator=generator)
            inputs["noise"] = noise.clamp(-span, span)
    return inputs


def loss_of(model: Any, parameters: Named, inputs: Batch) -> Tensor:
    """Return what the optimizer of ``parameters`` minimises, on a batch, at their given values.

    A pure function of the tensors that are given; of the model it reads the shape of its networks,
    and settings that stay.

    Args:
        model: A Stable-Baselines3 model.
        parameters: By their names in the policy; those that one optimizer moves, or some of them.
        inputs: As ``inputs_of`` gives them for these parameters.

    Raises:
        UsageError: If there is no such function for this algorithm.
    """
    return loss_and_figures(model, parameters, inputs)[0]


def loss_and_figures(model: Any, parameters: Named, inputs: Batch) -> tuple[Tensor, Named]:
    """Return what ``loss_of`` returns, and the parts of the loss that ``train`` logs, by tag."""
    chosen = _loss_for(model, critic=_is_critic(parameters))
    with replaced(model.policy, inputs["others"] | parameters):
        return chosen(model, inputs)


def temperature_loss(model: Any, coefficient: Tensor, inputs: Batch) -> Tensor:
    """Return what the optimizer of the entropy coefficient minimises: SAC, equation 18.

    Args:
        model: SAC or TQC.
        coefficient: Its logarithm, shape (1,).
        inputs: As for the actor's loss, all tensors of the policy among the others.
    """
    with torch.no_grad(), replaced(model.policy, inputs["others"]):
        _, log_prob = _drawn(model.policy.actor, _seen(inputs), inputs["noise"])
    loss: Tensor = -(coefficient * (log_prob + model.target_entropy)).mean()
    return loss


def loss_gradient(model: Any, parameters: Named, inputs: Batch) -> Named:
    """Return the gradient of ``loss_of`` by name, computed on detached copies."""
    return gradient_of(lambda values: loss_of(model, values, inputs), parameters)


def _is_critic(parameters: Named) -> bool:
    return any(name.startswith("critic.") for name in parameters)


def _loss_for(model: Any, *, critic: bool) -> _Loss:
    """Return the loss of a model's only optimizer, or that of its actor's or its critic's."""
    if getattr(model, "use_sde", False):
        raise UsageError(
            "agent.use_sde: this method needs an algorithm without state-dependent noise"
        )
    match model:
        case PPO() | MaskablePPO():
            return _clipped_surrogate
        case A2C():
            return _policy_gradient
        case VDN():  # and QMIX
            return _joint_values
        case DQN():
            return _action_values
        case QRDQN():
            return _action_quantiles
        case SAC():
            return _soft_critic if critic else _soft_actor
        case TQC():
            return _quantile_critic if critic else _soft_actor
        case TD3():  # and DDPG, which is TD3 with one critic and no noise
            return _twin_critic if critic else _deterministic_actor
    raise UsageError(
        f"{type(model).__name__}: its loss is not known as a function of its parameters; use one "
        "of A2C, DDPG, DQN, MaskablePPO, PPO, QRDQN, SAC, TD3, TQC"
    )


def value_error(policy: Any, batch: Batch) -> Tensor:
    """Return the mean squared error of an actor-critic's values, shape ().

    Args:
        policy: The actor-critic.
        batch: ``observations`` and ``returns``.
    """
    return F.mse_loss(policy.predict_values(_seen(batch)).flatten(), batch["returns"])


def _seen(batch: Batch, name: str = "observations") -> Any:
    """Return observations as a network takes them: one tensor, or one per key of a Dict."""
    prefix = f"{name}."
    entries = {n.removeprefix(prefix): v for n, v in batch.items() if n.startswith(prefix)}
    return entries or batch[name]


# -- on-policy -------------------------------------------------------------------------------------


def _clipped_surrogate(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """PPO, Schulman et al. 2017 (arXiv:1707.06347), equation 9."""
    values, log_prob, entropy = _evaluated(model, batch)
    advantages = batch["advantages"]
    if model.normalize_advantage and len(advantages) > 1:
        advantages = _normalized(advantages)
    log_ratio = log_prob - batch["old_log_prob"]
    ratio = torch.exp(log_ratio)
    clipped = torch.clamp(ratio, *batch["clip_range"])
    policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
    if "clip_range_vf" in batch:
        old = batch["old_values"]
        values = old + torch.clamp(values - old, *batch["clip_range_vf"])
    value_loss = F.mse_loss(batch["returns"], values)
    low, high = batch["clip_range"]
    figures = {
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio < low) | (ratio > high)).to(ratio.dtype).mean(),
    }
    return _actor_critic(model, policy_loss, entropy, value_loss, figures)


def _policy_gradient(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """A2C, Mnih et al. 2016 (arXiv:1602.01783), section 4."""
    values, log_prob, entropy = _evaluated(model, batch)
    advantages = batch["advantages"]
    if model.normalize_advantage:
        advantages = _normalized(advantages)
    value_loss = F.mse_loss(batch["returns"], values)
    policy_loss = -(advantages * log_prob).mean()
    return _actor_critic(model, policy_loss, entropy, value_loss, {})


def _actor_critic(
    model: Any, policy_loss: Tensor, entropy: Tensor, value_loss: Tensor, figures: Named
) -> tuple[Tensor, Named]:
    total: Tensor = policy_loss - model.ent_coef * entropy + model.vf_coef * value_loss
    parts = {
        "policy_gradient_loss": policy_loss,
        "entropy_loss": -entropy,
        "value_loss": value_loss,
    }
    return total, parts | figures


def _evaluated(model: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return values and log-likelihoods, each of shape (batch,), and the mean entropy."""
    actions = batch["actions"]
    if isinstance(model.action_space, gym.spaces.Discrete):
        actions = actions.long().flatten()  # (batch,)
    # MaskablePPO's policy takes the masks that were valid when it acted.
    masks = {name: batch[name] for name in ("action_masks",) if name in batch}
    values, log_prob, entropy = model.policy.evaluate_actions(_seen(batch), actions, **masks)
    return values.flatten(), log_prob, (-log_prob if entropy is None else entropy).mean()


def _normalized(advantages: Tensor) -> Tensor:
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


# -- action values ---------------------------------------------------------------------------------


def _action_values(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """DQN, Mnih et al. 2015; the Huber loss as in Stable-Baselines3."""
    with torch.no_grad():
        following = model.policy.q_net_target(_seen(batch, "next_observations"))
        target = _backed_up(model, batch, following.max(dim=1, keepdim=True).values)  # (batch, 1)
    values = model.policy.q_net(_seen(batch)).gather(1, batch["actions"].long())  # (batch, 1)
    return F.smooth_l1_loss(values, target), {}


def _joint_values(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """VDN and QMIX, Rashid et al. 2018 (arXiv:1803.11485), equation 5."""
    following = _seen(batch, "next_observations")
    targets = joint_targets(model.policy, following, batch["rewards"], batch["dones"], model.gamma)
    return joint_loss(model.policy, _seen(batch), batch["actions"], targets), {}


def _action_quantiles(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """QR-DQN, Dabney et al. 2017 (arXiv:1710.10044), equation 10."""
    with torch.no_grad():
        # (batch, quantiles, actions)
        following = model.policy.quantile_net_target(_seen(batch, "next_observations"))
        best = following.mean(dim=1, keepdim=True).argmax(dim=2, keepdim=True)  # (batch, 1, 1)
        target = _backed_up(model, batch, _of_action(following, best))
    quantiles = model.policy.quantile_net(_seen(batch))
    chosen = _of_action(quantiles, batch["actions"].long().unsqueeze(-1))
    return quantile_huber_loss(chosen, target, sum_over_quantiles=True), {}


def _of_action(quantiles: Tensor, actions: Tensor) -> Tensor:
    """Return (batch, quantiles) of the actions (batch, 1, 1) out of (batch, quantiles, actions)."""
    index = actions.expand(-1, quantiles.shape[1], 1)
    return quantiles.gather(2, index).squeeze(2)


def _backed_up(model: Any, batch: Batch, following: Tensor) -> Tensor:
    """Return r + (1 - done) * discount * what follows."""
    discounts = batch.get("discounts", model.gamma)
    target: Tensor = batch["rewards"] + (1 - batch["dones"]) * discounts * following
    return target


# -- actor and critic with an optimizer each -------------------------------------------------------


def _soft_critic(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """SAC, Haarnoja et al. 2018 (arXiv:1812.05905), equation 5; summed over the critics."""
    policy = model.policy
    with torch.no_grad():
        following = _seen(batch, "next_observations")
        actions, log_prob = _drawn(policy.actor, following, batch["noise"])
        worst = torch.cat(policy.critic_target(following, actions), 1).amin(1, keepdim=True)
        target = _backed_up(model, batch, worst - batch["temperature"] * log_prob)  # (batch, 1)
    values = policy.critic(_seen(batch), batch["actions"])
    return 0.5 * _summed_errors(values, target), {}


def _quantile_critic(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """TQC, Kuznetsov et al. 2020 (arXiv:2005.04269), section 3."""
    policy = model.policy
    with torch.no_grad():
        following = _seen(batch, "next_observations")
        actions, log_prob = _drawn(policy.actor, following, batch["noise"])
        pooled = policy.critic_target(following, actions).flatten(1).sort().values
        dropped = model.top_quantiles_to_drop_per_net * policy.critic.n_critics
        kept = pooled[:, : policy.critic.quantiles_total - dropped]  # (batch, quantiles)
        target = _backed_up(model, batch, kept - batch["temperature"] * log_prob)
    quantiles = policy.critic(_seen(batch), batch["actions"])  # (batch, critics, quantiles)
    return quantile_huber_loss(quantiles, target.unsqueeze(1), sum_over_quantiles=False), {}


def _soft_actor(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """SAC, equation 7; for TQC the value is the mean over all quantiles of all critics."""
    policy, seen = model.policy, _seen(batch)
    actions, log_prob = _drawn(policy.actor, seen, batch["noise"])
    values = policy.critic(seen, actions)
    if isinstance(model, TQC):
        value = values.mean(2).mean(1, keepdim=True)  # (batch, 1)
    else:
        value = torch.cat(values, 1).amin(1, keepdim=True)  # (batch, 1)
    loss: Tensor = (batch["temperature"] * log_prob - value).mean()
    return loss, {}


def _drawn(actor: Any, observations: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return squashed actions and their log-likelihoods of shape (batch, 1).

    The published ``action_log_prob`` draws from the global generator.
    """
    mean, log_std, _ = actor.get_action_dist_params(observations)
    actions = torch.tanh(mean + noise * log_std.exp())
    log_density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    squashing = torch.log(1 - actions.square() + 1e-6)  # 1e-6 as in Stable-Baselines3
    return actions, (log_density - squashing).sum(1, keepdim=True)


def _twin_critic(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    """TD3, Fujimoto et al. 2018 (arXiv:1802.09477), algorithm 1; summed over the critics."""
    policy = model.policy
    with torch.no_grad():
        following = _seen(batch, "next_observations")
        actions = (policy.actor_target(following) + batch["noise"]).clamp(-1, 1)
        worst = torch.cat(policy.critic_target(following, actions), 1).amin(1, keepdim=True)
        target = _backed_up(model, batch, worst)  # (batch, 1)
    return _summed_errors(policy.critic(_seen(batch), batch["actions"]), target), {}


def _deterministic_actor(model: Any, batch: Batch) -> tuple[Tensor, Named]:
    policy, seen = model.policy, _seen(batch)
    value: Tensor = policy.critic.q1_forward(seen, policy.actor(seen)).mean()
    return -value, {}


def _summed_errors(values: tuple[Tensor, ...], target: Tensor) -> Tensor:
    return torch.stack([F.mse_loss(value, target) for value in values]).sum()
