"""CLEAR: replay and cloning of earlier rollouts, for on-policy algorithms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from holdfast.agents.doors.gradients import Named, gradient_of
from holdfast.agents.doors.memory import Arrays
from holdfast.agents.doors.outputs import entropy, log_likelihood
from holdfast.agents.doors.samples import by_key
from holdfast.agents.sb3.imitation import imitation_loss, output_of
from holdfast.agents.sb3.values import ValueOutput
from holdfast.continual.method import Method
from holdfast.continual.methods.rehearsal.selection import placed, reservoir_places
from holdfast.continual.methods.rehearsal.vtrace import vtrace

if TYPE_CHECKING:
    from holdfast.agents.sb3.learner import StableBaselinesAgent
    from holdfast.continual.streams.task_stream import TaskExperience

_OUTPUT = "output/"


class Clear(Method):
    """Learns from a reservoir of earlier rollouts beside the new ones, and stays near their policy.

    Every rollout is cut into segments of ``unroll`` steps; all segments of the stream so far are
    kept with equal chance. To each update is added, on segments drawn from the store::

        ratio * mean over their steps of [ -advantage log pi(a | s)
                                           + vf_coef (v - V(s))^2 - ent_coef H(pi)
                                           + policy_strength KL(mu || pi)
                                           + value_strength (V(s) - V_mu(s))^2 ]

    with v and the advantage by V-trace, ``mu`` the policy that acted and ``V_mu`` what it said the
    value was. ``vf_coef``, ``ent_coef``, ``gamma`` and whether advantages are normalised are those
    of the algorithm. It is told nothing of tasks. Source: Rolnick et al. 2018, Experience Replay
    for Continual Learning (arXiv:1811.11682), on IMPALA; here the new rollouts are learned from as
    the algorithm does.

    Args:
        ratio: Steps of old rollouts per step of a new batch; they weigh alike, so that a ratio of 1
            is half new and half old, as in the paper.
        policy_strength: Of policy cloning; .01 in the paper.
        value_strength: Of value cloning; .005 in the paper.
        samples: Steps kept in all.
        unroll: Steps of a segment; 20 as IMPALA on Atari. At most one less than a rollout.
    """

    doors: ClassVar[tuple[str, ...]] = ("gradients", "memory", "output")
    on_policy: ClassVar[bool | None] = True
    algorithms: ClassVar[tuple[str, ...]] = ("ppo", "a2c")
    not_in_teams: ClassVar[str] = (
        "it corrects sequences of steps, and a team's agents come and go within them"
    )
    limits: ClassVar[dict[str, tuple[float, float | None]]] = {
        "ratio": (0, None),
        "policy_strength": (0, None),
        "value_strength": (0, None),
        "samples": (1, None),
        "unroll": (1, None),
    }
    memory: ClassVar[str] = "10,000 steps of rollouts in all (`samples`)"
    convention: ClassVar[str] = (
        "policy_strength x mean KL(mu || pi), value_strength x mean squared gap of values, on as "
        "many old steps as new ones x ratio"
    )

    def __init__(
        self,
        *,
        ratio: float = 1.0,
        policy_strength: float = 0.01,
        value_strength: float = 0.005,
        samples: int = 10_000,
        unroll: int = 20,
    ) -> None:
        self.ratio = ratio
        self.policy_strength = policy_strength
        self.value_strength = value_strength
        self.samples = samples
        self.unroll = unroll
        self._segments: Arrays = {}
        self._seen = 0

    def pre_adapt(self, agent: StableBaselinesAgent, experience: TaskExperience) -> None:
        """Add the replay gradient to the updates of the coming task."""
        agent.memory.keep_rollouts(1)
        rng, store_rng = experience.generator("clear"), experience.generator("clear", "store")
        taken_at = -1

        def term(parameters: Named) -> Named:
            nonlocal taken_at
            # The first update after a rollout: the policy is still the one that acted.
            if agent.model.num_timesteps != taken_at:
                taken_at = agent.model.num_timesteps
                self.offer(segments(agent, self.unroll), store_rng)
            if not self.ratio or not self._segments:
                return {}
            length = self._segments["rewards"].shape[1] - 1
            count = round(self.ratio * _batch_size(agent.model) / length)
            rows = rng.integers(len(self._segments["actions"]), size=max(1, count))
            chosen = {name: values[rows] for name, values in self._segments.items()}
            return self.gradient(agent, parameters, chosen)

        agent.gradients.add(term)

    def offer(self, new: Arrays, rng: np.random.Generator) -> None:
        """Take segments into the reservoir."""
        if not new:
            return
        offered, steps = new["rewards"].shape
        size = max(1, self.samples // (steps - 1))
        self._segments = placed(
            self._segments, new, reservoir_places(self._seen, offered, size, rng)
        )
        self._seen += offered

    def gradient(self, agent: StableBaselinesAgent, parameters: Named, chosen: Arrays) -> Named:
        """Return the gradient of the replay loss; arrays have the shape (count, steps + 1, ...)."""
        model: Any = agent.model
        module, critic = agent.output(), ValueOutput(agent.policy)
        count, length = chosen["rewards"].shape
        rows = by_key(chosen, "observations")
        observations = agent.policy_input({k: v.reshape(-1, *v.shape[2:]) for k, v in rows.items()})
        tensors = {
            name: torch.as_tensor(values, device=agent.device)
            for name, values in chosen.items()
            if not name.startswith("observations")
        }
        stored = {
            name.removeprefix(_OUTPUT): values.flatten(0, 1)
            for name, values in tensors.items()
            if name.startswith(_OUTPUT)
        }
        actions = tensors["actions"].flatten(0, 1)  # (count * length, dimensions)
        behaviour = log_likelihood(module.spec, stored, actions)
        discounts = model.gamma * (1 - tensors["episode_starts"][:, 1:])

        def steps(rows: Tensor) -> Tensor:
            """Shape (count * length,) to (steps, count), without the last observation."""
            return rows.reshape(count, length)[:, :-1].T

        def loss(values: Named) -> Tensor:
            current = output_of(module, values, observations)
            named = {f"policy.{name}": value for name, value in values.items()}
            worth = functional_call(critic, named, (observations,))["mean"].reshape(count, length)
            log_prob = log_likelihood(module.spec, current, actions)
            with torch.no_grad():
                ratios = (log_prob - behaviour).exp()
                found = vtrace(steps(ratios), tensors["rewards"][:, :-1].T, discounts.T, worth.T)
                errors = found.errors
                if model.normalize_advantage and errors.numel() > 1:
                    # Without the ratios: what is subtracted from an action that the policy would
                    # not take any more (ratio 0) would push it down without end.
                    errors = (errors - errors.mean()) / (errors.std() + 1e-8)
                advantages = found.rho * errors
            total = -(advantages * steps(log_prob)).mean()
            total = total + model.vf_coef * (found.targets - worth[:, :-1].T).square().mean()
            total = total + self.policy_strength * imitation_loss(module.spec, stored, current)
            total = total + self.value_strength * (tensors["old_values"] - worth).square().mean()
            if model.ent_coef:
                total = total - model.ent_coef * entropy(module.spec, current).mean()
            scaled: Tensor = self.ratio * total
            return scaled

        return gradient_of(loss, parameters)

    def state(self) -> dict[str, Tensor]:
        """Return the stored segments, and how many were offered."""
        stored = {f"segments/{name}": torch.as_tensor(v) for name, v in self._segments.items()}
        return stored | {"seen": torch.tensor(self._seen)}

    def load_state(self, agent: StableBaselinesAgent, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._seen = int(tensors["seen"])
        self._segments = {
            path.removeprefix("segments/"): tensor.numpy()
            for path, tensor in tensors.items()
            if path.startswith("segments/")
        }


_STORED = ("actions", "rewards", "episode_starts", "old_values")


def segments(agent: StableBaselinesAgent, unroll: int) -> Arrays:
    """Return the newest rollout in segments, with what the policy says about it now.

    Each array has the shape (segments, steps + 1, ...); the last step gives the observation after
    the one before it. Steps at the end of a rollout that fill no segment are left out.
    """
    rollout = agent.rollouts()[-1]
    steps, n_envs = rollout["actions"].shape[:2]
    length = min(unroll, agent.model.n_steps - 1)
    starts = range(0, steps - length, length)
    if length < 1 or not starts:
        return {}
    rows = by_key(rollout, "observations")
    with torch.no_grad():
        output = agent.output()(
            agent.policy_input({k: v.reshape(-1, *v.shape[2:]) for k, v in rows.items()})
        )
    taken = {n: v for n, v in rollout.items() if n in _STORED or n.startswith("observations")}
    for name, values in output.items():
        wide = values.expand(steps * n_envs, -1).reshape(steps, n_envs, -1)
        taken[f"{_OUTPUT}{name}"] = wide.cpu().numpy()
    return {
        # (steps + 1, n_envs, ...) to (n_envs, steps + 1, ...)
        name: np.concatenate([values[s : s + length + 1].swapaxes(0, 1) for s in starts])
        for name, values in taken.items()
    }


def _batch_size(model: Any) -> int:
    """Return the rows of one update: of a minibatch of PPO, or of a whole rollout of A2C."""
    return int(getattr(model, "batch_size", model.n_steps * model.n_envs))
