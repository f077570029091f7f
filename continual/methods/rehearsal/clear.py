"""CLEAR: replay and cloning of earlier rollouts, for on-policy algorithms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from holdfast.agents.base.buffers import Arrays, by_key
from holdfast.agents.base.parameters import Named, below, flat, gradient_of
from holdfast.agents.doors.gradients import Tensors
from holdfast.agents.doors.outputs import Reader, entropy, log_likelihood
from holdfast.continual.method import Doors, Experience, Method
from holdfast.continual.methods.imitation import imitation_loss
from holdfast.continual.methods.rehearsal.selection import put, reservoir_places, with_room
from holdfast.continual.methods.rehearsal.vtrace import vtrace

_OUTPUT = "output/"


@dataclass(kw_only=True, eq=False)
class Clear(Method):
    """Learns from a reservoir of earlier rollouts beside the new ones, and stays near their policy.

    Every rollout is cut into segments of ``unroll`` steps. A store of ``share`` of the stream's
    steps keeps all segments so far with equal chance. To each update is added, on segments drawn
    from the store::

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
        share: Of the steps of the whole stream, as many are kept at most; 1 keeps all.
        samples: Steps kept at most, so that long streams fit into the memory; with ``share: 1``
            the size of the store.
        unroll: Steps of a segment; 20 as IMPALA on Atari. At most one less than a rollout.
    """

    doors = ("gradients", "memory", "output")
    acts_by = ("seen",)
    on_policy = True
    algorithms = ("ppo", "a2c")
    not_in_teams = "it corrects sequences of steps, and a team's agents come and go within them"
    grows = "share"
    memory = "half of the stream's steps, at most 1,000,000 (`share`, `samples`)"
    convention = (
        "policy_strength x mean KL(mu || pi), value_strength x mean squared gap of values, on as "
        "many old steps as new ones x ratio"
    )

    ratio: Annotated[float, (0, None)] = 1.0
    policy_strength: Annotated[float, (0, None)] = 0.01
    value_strength: Annotated[float, (0, None)] = 0.005
    share: Annotated[float, (0, 1)] = 0.5
    samples: Annotated[int, (1, None)] = 1_000_000
    unroll: Annotated[int, (1, None)] = 20
    _store: Arrays = field(init=False, default_factory=dict)  # with room to grow
    _seen = _stored = 0

    def pre_adapt(self, doors: Doors, experience: Experience) -> None:
        """Add the replay gradient to the updates of the coming task."""
        doors.memory.keep_rollouts(1)
        rng, store_rng = experience.generator("clear"), experience.generator("clear", "store")
        settings, size = doors.facts.settings, self.size(doors.facts.stream_steps)
        taken_at = -1

        def draw(_: Named) -> Tensors | None:
            nonlocal taken_at
            # The first update after a rollout: the policy is still the one that acted.
            if doors.step != taken_at:
                taken_at = doors.step
                self.offer(segments(doors, self.unroll), size, store_rng)
            if not self.ratio or not self._stored:
                return None
            length = self._store["rewards"].shape[1] - 1
            steps = settings.get("batch_size", doors.facts.round_steps)  # A2C's is a whole rollout
            rows = rng.integers(self._stored, size=max(1, round(self.ratio * steps / length)))
            chosen = {name: values[rows] for name, values in self._store.items()}
            return self.batch(doors, chosen)

        doors.gradients.add(
            partial(self.gradient, doors.output.actor, doors.output.critic, settings), batch=draw
        )

    def size(self, stream_steps: int) -> int:
        """Return how many steps of a stream are kept at most."""
        return min(self.samples, round(self.share * stream_steps))

    def offer(self, new: Arrays, size: int, rng: np.random.Generator) -> None:
        """Take segments into the reservoir, which holds ``size`` steps and one segment at least."""
        if not new:
            return
        offered, steps = new["rewards"].shape
        places = reservoir_places(self._seen, offered, max(1, size // (steps - 1)), rng)
        self._stored = max(self._stored, int(places.max()) + 1)
        for name, rows in new.items():
            self._store[name] = with_room(self._store.get(name, rows[:0]), self._stored)
        put(self._store, new, places)
        self._seen += offered

    def batch(self, doors: Doors, chosen: Arrays) -> Tensors:
        """Return what ``gradient`` takes of arrays of the shape (count, steps + 1, ...)."""
        rows = by_key(chosen, "observations")
        tensors: dict[str, Any] = {
            name: torch.as_tensor(values, device=doors.facts.device)
            for name, values in chosen.items()
            if not name.startswith("observations")
        }
        stored = {
            name.removeprefix(_OUTPUT): tensors.pop(name).flatten(0, 1)
            for name in list(tensors)
            if name.startswith(_OUTPUT)
        }
        seen = doors.memory.policy_input({k: v.reshape(-1, *v.shape[2:]) for k, v in rows.items()})
        return tensors | {"stored": stored, "seen": seen}

    def gradient(
        self,
        actor: Reader,
        critic: Reader,
        settings: Mapping[str, Any],
        parameters: Named,
        *given: Tensors,
    ) -> Named:
        """Return the gradient of the replay loss.

        Args:
            actor: What acts.
            critic: Its values.
            settings: Of the algorithm.
            parameters: Of both.
            *given: The state, which is empty, and the batch.
        """
        batch = given[1]
        stored, spec = batch["stored"], actor.spec
        count, length = batch["rewards"].shape
        actions = batch["actions"].flatten(0, 1)  # (count * length, dimensions)
        behaviour = log_likelihood(spec, stored, actions)
        discounts = settings["gamma"] * (1 - batch["episode_starts"][:, 1:])

        def steps(rows: Tensor) -> Tensor:
            """Shape (count * length,) to (steps, count), without the last observation."""
            return rows.reshape(count, length)[:, :-1].T

        def loss(values: Named) -> Tensor:
            current = actor.of(values, batch["seen"])
            worth = critic.of(values, batch["seen"])["mean"].reshape(count, length)
            log_prob = log_likelihood(spec, current, actions)
            with torch.no_grad():
                ratios = (log_prob - behaviour).exp()
                found = vtrace(steps(ratios), batch["rewards"][:, :-1].T, discounts.T, worth.T)
                errors = found.errors
                if settings["normalize_advantage"] and errors.numel() > 1:
                    # Without the ratios: what is subtracted from an action that the policy would
                    # not take any more (ratio 0) would push it down without end.
                    errors = (errors - errors.mean()) / (errors.std() + 1e-8)
                advantages = found.rho * errors
            total = -(advantages * steps(log_prob)).mean()
            total = total + settings["vf_coef"] * (
                (found.targets - worth[:, :-1].T).square().mean()
            )
            total = total + self.policy_strength * imitation_loss(spec, stored, current)
            total = total + self.value_strength * (batch["old_values"] - worth).square().mean()
            if settings["ent_coef"]:
                total = total - settings["ent_coef"] * entropy(spec, current).mean()
            scaled: Tensor = self.ratio * total
            return scaled

        return gradient_of(loss, parameters)

    def state(self) -> dict[str, Tensor]:
        """Return the stored segments, and how many were offered."""
        segments = {name: rows[: self._stored] for name, rows in self._store.items()}
        return flat({"segments": segments, "seen": self._seen})

    def load_state(self, doors: Doors, tensors: dict[str, Tensor]) -> None:
        """Take them back."""
        self._seen = int(tensors["seen"])
        # Copies, as they are written into.
        self._store = {n: t.numpy().copy() for n, t in below(tensors, "segments").items()}
        self._stored = max((len(rows) for rows in self._store.values()), default=0)


_STORED = ("actions", "rewards", "episode_starts", "old_values")


def segments(doors: Doors, unroll: int) -> Arrays:
    """Return the newest rollout in segments, with what the policy says about it now.

    Each array has the shape (segments, steps + 1, ...); the last step gives the observation after
    the one before it. Steps at the end of a rollout that fill no segment are left out.
    """
    rollout = doors.memory.rollouts()[-1]
    steps, n_envs = rollout["actions"].shape[:2]
    length = min(unroll, doors.facts.settings["n_steps"] - 1)
    starts = range(0, steps - length, length)
    if length < 1 or not starts:
        return {}
    rows = by_key(rollout, "observations")
    seen = doors.memory.policy_input({k: v.reshape(-1, *v.shape[2:]) for k, v in rows.items()})
    with torch.no_grad():
        output = doors.output.of({}, seen)
    taken = {n: v for n, v in rollout.items() if n in _STORED or n.startswith("observations")}
    for name, values in output.items():
        wide = values.expand(steps * n_envs, -1).reshape(steps, n_envs, -1)
        taken[f"{_OUTPUT}{name}"] = wide.cpu().numpy()
    return {
        # (steps + 1, n_envs, ...) to (n_envs, steps + 1, ...)
        name: np.concatenate([values[s : s + length + 1].swapaxes(0, 1) for s in starts])
        for name, values in taken.items()
    }
