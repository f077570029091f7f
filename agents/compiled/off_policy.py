"""``train`` of algorithms with a replay buffer, compiled: DQN, QR-DQN, SAC, TQC, TD3, DDPG."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from holdfast.agents.algorithms import losses
from holdfast.agents.base.buffers import flatten
from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.base.parameters import ENTROPY_COEFFICIENT, Named
from holdfast.agents.compiled import account
from holdfast.agents.compiled.attributes import kept_tensors, replaced_by, settings
from holdfast.agents.compiled.rounds import Planned, Rounds, joined
from holdfast.agents.compiled.transfer import (
    arrays_of,
    copy_into,
    state_of,
    tensors_of,
    write,
)
from holdfast.agents.compiled.update import NORM, Called, State, Update, filled, norms_in
from holdfast.agents.doors.gradients import Tensors

ENTROPY = "entropy"


class ReplayLearning:
    """Learns from a replay buffer in the place of a model's ``train``.

    The state of networks and optimizers stays with the compiled program between calls. What acts is
    written into the model after each of them, the rest when somebody looks (``settle``).

    Args:
        model: DQN, QR-DQN, SAC, TQC, TD3 or DDPG.
        updates: Of each optimizer: ``policy``, or ``actor`` and ``critic``; and ``entropy`` where
            the entropy coefficient is learned.
        followed: Names of target networks' parameters to those that they follow.
        acts: Whether a parameter of this name acts.
        norms: Takes how large gradients are.
    """

    def __init__(
        self,
        model: Any,
        updates: dict[str, Update],
        followed: dict[str, str],
        acts: Callable[[str], bool],
        norms: GradientNorms,
    ) -> None:
        self._model, self._updates, self._followed = model, updates, followed
        self._norms = norms
        self._rounds = Rounds(self._one)
        self._dtype = next(model.policy.parameters()).dtype
        self._kind = next(model.policy.parameters()).detach().numpy().dtype
        # DQN's targets follow environment steps, in ``_on_step``.
        self._follows_steps = isinstance(model, DQN | QRDQN)
        self._state: Any = None
        self._fixed: dict[str, Any] = {}
        self._is_settled, self._is_learning = True, False
        named = dict(model.policy.named_parameters())
        known = {name for update in updates.values() for name in update.parameters}
        # Neither learned nor a target: a part that a method has frozen.
        self._still: Named = {
            name: p.detach()
            for name, p in named.items()
            if name not in known and name not in followed
        } | dict(model.policy.named_buffers())
        self._kept = kept_tensors(settings(model.policy))
        self._targets = {name: named[name].detach() for name in followed}
        self._actors = [
            (update.parameters[name].detach().view(-1).numpy(), key, name)
            for key, update in updates.items()
            for name in update.parameters
            if acts(name)
        ]
        self._acting: list[tuple[Any, slice | int]] = []

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """Do what the model's own ``train`` does.

        Raises:
            Diverged: If a gradient is not finite.
        """
        self._is_learning = True
        try:
            self._train(gradient_steps, batch_size)
        finally:
            self._is_learning = False

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        model = self._model
        optimizers = [update.optimizer for update in self._updates.values()]
        model._update_learning_rate(optimizers)
        drawn = [self._drawn(number, batch_size) for number in range(gradient_steps)]
        if self._state is not None and any(u.begins for u in self._updates.values()):
            self._write()  # a method begins again, at weights as they are now
            self._state = None
        if self._state is None:
            self._state = self._rounds.begun(arrays_of(self._begun(tensors_of(drawn[0]))))
            places = self._rounds.places()
            self._acting = [
                (flat, places[key]["parameters"][name]) for flat, key, name in self._actors
            ]
        planned = [self._planned(own) for own in drawn]
        is_hosted = any(update.hosted for update in self._updates.values())
        rounds = [[one] for one in planned] if is_hosted else [planned]
        self._log(joined([self._round(updates) for updates in rounds]))

    def _round(self, planned: list[Planned]) -> dict[str, Any]:
        """Do updates in one call, and return their figures."""
        kept = arrays_of([own[name] for own, name in self._kept])
        shared = {"rates": self._rates(), "kept": kept, **self._fixed}
        outcome = self._rounds.run(self._state, shared, planned)
        self._state, self._is_settled = outcome.state, False
        vector, beside = self._rounds.parts(self._state)
        for flat, place in self._acting:
            is_inside = isinstance(place, slice)
            np.copyto(flat, vector[place] if is_inside else np.ravel(beside[place]))
        for key, update in self._updates.items():
            update.tell([said[key] for said in outcome.said if key in said])
        account.add(steps=sum(len(update.own["given"]) for update in planned))
        for key, update in self._updates.items():
            own = {t: v for t, v in outcome.figures.items() if t.startswith(f"{key}/")}
            self._norms.add(update.optimizer, norms_in(own))
        for key in planned[-1].own["given"]:
            for action in self._updates[key].hosted:
                action()
        return outcome.figures

    def settle(self) -> None:
        """Write all that has changed into the model, its optimizers and the methods' functions.

        What is changed there is read again. While it learns, methods see what acts as it was at the
        last call, and the rest as it was at the last time that this was called.
        """
        if not self._is_learning:
            self._write()
            self._state = None

    def _write(self) -> None:
        if self._is_settled:
            return
        told = self._rounds.told(self._state)
        for key, update in self._updates.items():
            write(update, told[key])
        for name, tensor in self._targets.items():
            copy_into(tensor, told["targets"][name])
        self._is_settled = True

    # -- what a round is given ---------------------------------------------------------------------

    def _begun(self, own: dict[str, Any]) -> State:
        """Return the state at the first update, as the model and the methods have it."""
        states = {key: state_of(update) for key, update in self._updates.items()}
        state = states | {"targets": dict(self._targets)}
        for key, update in self._updates.items():
            everything = self._all(state, self._still)
            update.begin(self._loss(key, own, self._temperature(state), everything))
        fixed = {key: update.fixed() for key, update in self._updates.items()}
        # Views: what a method writes into a buffer shows through them.
        self._fixed = {"fixed": arrays_of(fixed), "still": arrays_of(self._still)}
        return state | {key: state_of(update) for key, update in self._updates.items()}

    def _drawn(self, number: int, batch_size: int) -> dict[str, Any]:
        """Return the batch of an update, its noise, and how far targets follow in it."""
        model, batch = self._model, self._batch(batch_size)
        own: dict[str, Any] = {
            "batch": batch,
            "noise": self._noise(batch["actions"]),
        }
        delay = getattr(model, "policy_delay", None)
        model._n_updates += 1
        own["acts"] = delay is None or model._n_updates % delay == 0
        if not self._follows_steps:
            interval = getattr(model, "target_update_interval", 1)
            rate = model.tau if number % interval == 0 and own["acts"] else 0.0
            own["tau"] = torch.tensor(rate, dtype=self._dtype)
        return own

    def _batch(self, size: int) -> dict[str, Any]:
        """Return a batch by flat name, as the buffer's own ``sample`` draws it."""
        buffer, normalizer = self._model.replay_buffer, self._model._vec_normalize_env
        is_plain = type(buffer) is ReplayBuffer and not buffer.optimize_memory_usage
        if not is_plain or "sample" in vars(buffer) or normalizer is not None:
            return flatten(buffer.sample(size, env=normalizer)._asdict())
        stored, envs = buffer.buffer_size if buffer.full else buffer.pos, buffer.n_envs
        rows = np.random.randint(0, stored, size=size) * envs
        rows += np.random.randint(0, high=envs, size=(size,))

        def taken(values: NDArray[Any], *shape: int) -> Any:
            return values.reshape(-1, *shape).take(rows, axis=0)

        batch = {name: taken(of, *of.shape[2:]) for name, of in _stored(buffer)}
        dones = taken(buffer.dones, 1) * (1 - taken(buffer.timeouts, 1))
        return batch | {"dones": dones, "rewards": taken(buffer.rewards, 1)}

    def _noise(self, actions: Any) -> list[Tensor]:
        """Return standard noise of the actions that an update draws, in the order of ``train``."""
        model = self._model
        if self._follows_steps:
            return []
        if isinstance(model, SAC | TQC):
            return [torch.randn(actions.shape, dtype=self._dtype) for _ in range(2)]
        span = model.target_noise_clip
        noise = torch.empty_like(torch.as_tensor(actions)).normal_(0, model.target_policy_noise)
        return [noise.clamp(-span, span)]

    def _planned(self, own: dict[str, Any]) -> Planned:
        acts = own.pop("acts")
        called, own["given"] = {}, {}
        for key in _ORDER:  # methods draw their random numbers in it
            if key in self._updates and (acts or key != "actor"):
                called[key], own["given"][key] = self._updates[key].draw()
        forms = tuple(update.form for update in self._updates.values())
        return Planned((tuple(called.items()), forms), own)

    def _rates(self) -> dict[str, list[Any]]:
        return {
            key: [np.asarray(group["lr"], self._kind) for group in update.optimizer.param_groups]
            for key, update in self._updates.items()
        }

    def _log(self, figures: dict[str, Any]) -> None:
        """Record what ``train`` records, under its names."""
        logger = self._model.logger
        for tag, values in figures.items():
            if NORM in tag:
                continue
            logger.record(f"train/{tag}", values[0] if len(values) == 1 else values.mean())
        logger.record("train/n_updates", self._model._n_updates, exclude="tensorboard")

    # -- one update: a pure function ---------------------------------------------------------------

    def _one(
        self, how: Any, state: State, shared: Tensors, own: Tensors
    ) -> tuple[State, Named, Named, Any]:
        """Return what one update makes of the state, in the order of the model's own ``train``."""
        with replaced_by(self._kept, shared["kept"]):
            return self._updated(how, state, shared, own)

    def _updated(
        self, how: Any, state: State, shared: Tensors, own: Tensors
    ) -> tuple[State, Named, Named, Any]:
        called: dict[str, Called] = dict(how[0])
        after, temperature = dict(state), self._temperature(state)
        figures: Named = {}
        finite: Named = {}
        said: dict[str, Any] = {}
        if isinstance(self._model, SAC | TQC):
            figures["ent_coef"] = temperature.reshape(())
        for key in called:
            everything = self._all(after, shared["still"])
            given = filled(own["given"][key], everything, self._temperature(after))
            after[key], told, well, said[key], copied = self._updates[key].function(
                self._loss(key, own, temperature, everything),
                called[key],
                after[key],
                shared["fixed"][key],
                given,
                shared["rates"][key],
            )
            figures[_TAGS[key]] = told["loss"]
            figures |= {f"{key}/{tag}": of for tag, of in told.items() if tag.startswith(NORM)}
            finite |= well
            after["targets"] = self._copied(after, copied)
        if "tau" in own:
            after["targets"] = self._following(after, shared["still"], own["tau"])
        return after, figures, finite, said

    def _loss(
        self, key: str, own: Tensors, temperature: Tensor, everything: Named
    ) -> Callable[[Named], tuple[Tensor, Named]]:
        """Return what an optimizer minimises, as a function of its parameters."""
        batch, model = {**own["batch"], "temperature": temperature}, self._model
        noise = own["noise"]

        def of(parameters: Named) -> tuple[Tensor, Named]:
            others = {name: t for name, t in everything.items() if name not in parameters}
            if key == ENTROPY:
                inputs = {**batch, "noise": noise[0], "others": others}
                return losses.temperature_loss(model, parameters[ENTROPY_COEFFICIENT], inputs), {}
            inputs = {**batch, "others": others}
            if noise:
                # The actor's actions are drawn first; the critic's targets need others.
                inputs["noise"] = noise[0 if key == "actor" else -1]
            return losses.loss_and_figures(model, parameters, inputs)

        return of

    def _temperature(self, state: State) -> Tensor:
        if ENTROPY in self._updates:
            learned: Tensor = state[ENTROPY]["parameters"][ENTROPY_COEFFICIENT]
            return learned.exp()
        fixed: Tensor | None = getattr(self._model, "ent_coef_tensor", None)
        return torch.zeros((), dtype=self._dtype) if fixed is None else fixed

    def _all(self, state: State, still: Named) -> Named:
        """Return all tensors of the policy, as they are in this state."""
        learned: Named = {}
        for key in self._updates:
            learned |= state[key]["parameters"] if key != ENTROPY else {}
        return {**still, **state["targets"], **learned}

    def _copied(self, state: State, masks: Named) -> Named:
        """Return the targets, with entries that began from new as the weights have them."""
        targets: Named = state["targets"]
        if not masks:
            return targets
        everything, found = self._all(state, {}), dict(targets)
        for name, target in targets.items():
            if (of := self._followed[name]) in masks:
                found[name] = torch.where(masks[of], everything[of], target)
        return found

    def _following(self, state: State, still: Named, tau: Tensor) -> Named:
        everything = self._all(state, still)
        return {
            name: target * (1 - tau) + tau * everything[self._followed[name]]
            for name, target in state["targets"].items()
        }


def _stored(buffer: ReplayBuffer) -> list[tuple[str, NDArray[Any]]]:
    return [(name, getattr(buffer, name)) for name in _STORED]


_STORED = ("observations", "actions", "next_observations")
_ORDER = (ENTROPY, "policy", "critic", "actor")
_TAGS = {ENTROPY: "ent_coef_loss", "policy": "loss", "critic": "critic_loss", "actor": "actor_loss"}
