"""Any Stable-Baselines3 algorithm as a continual learner: unmodified, with four doors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from holdfast import registry
from holdfast.agents.agent import Files, Log, Observations, TaskStart, Watch
from holdfast.agents.doors import samples
from holdfast.agents.doors.exploration import exploring
from holdfast.agents.doors.gradients import (
    Gradients,
    named_parameters,
    optimizers_of,
    target_parameters,
)
from holdfast.agents.doors.lifecycle import Lifecycle
from holdfast.agents.doors.memory import (
    Arrays,
    Memory,
    buffer_arrays,
    load_buffer_arrays,
)
from holdfast.agents.doors.networks import install
from holdfast.agents.doors.outputs import PolicyOutput
from holdfast.agents.sb3 import heads
from holdfast.agents.sb3.arguments import build_arguments, policy_name
from holdfast.agents.sb3.budget import Watching, learn_off_policy, learn_on_policy, stream_logger
from holdfast.agents.sb3.normalization import TaskNormalize, carried_statistics
from holdfast.agents.sb3.options import network_changes, set_weight_decay
from holdfast.agents.sb3.past_selves import PastSelves
from holdfast.agents.sb3.weights_io import (
    load_optimizers,
    load_policy,
    optimizer_tensors,
    policy_tensors,
)
from holdfast.errors import UsageError
from holdfast.scenarios.schema.scenario import Scenario


class StableBaselinesAgent:
    """A learner that builds a fresh Stable-Baselines3 model at every task start.

    The doors, which methods open in ``pre_adapt``, before the model of the task is built:

    Attributes:
        gradients: Terms added to the gradient while the agent learns.
        memory: Observations and batches.
        networks: Maps of the newly built policy of the coming task.
        lifecycle: What is carried over a task switch, and the view of each task.
        model: The Stable-Baselines3 model of the current task.
        current_task: Index of the task that the model was built for.
        initial: Weights that a task which carries none starts from (``agent.init``); else none.
        notices: What a method warns of, in a line each; shown when the task begins.
        past: What it plays against in self-play; empty elsewhere.
    """

    model: Any

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.algorithm = registry.algorithm(scenario.agent.algorithm)
        self.gradients = Gradients()
        self.memory = Memory()
        self.networks: list[Callable[[Any], None]] = []
        self.lifecycle = Lifecycle()
        self.has_heads = scenario.stream.task_id == "heads"
        self.normalizer: TaskNormalize | None = None
        self.model = None
        self.initial: Files = {}
        self.notices: list[str] = []
        self.past = PastSelves()
        self._loaded: Files | None = None
        self._env: VecEnv | None = None
        self.takes_masks = False
        self._trained: tuple[int, ...] = ()
        self.current_task = 0

    @property
    def policy(self) -> Any:
        """The Stable-Baselines3 policy of the current task."""
        return self.model.policy

    @property
    def device(self) -> torch.device:
        """Where the policy's tensors are."""
        return get_device(_device(self.scenario.agent.device))

    def output(self) -> PolicyOutput:
        """Return the current policy as a module whose forward gives its output."""
        return PolicyOutput(self.policy)

    # -- a task start is one operation -------------------------------------------------------------

    def start(self, experience: TaskStart) -> None:
        """Build a fresh model for this task and load what is carried into it."""
        carried = self._loaded if self._loaded is not None else self._files_to_carry()
        carried = {} if self.lifecycle.everything_fresh else carried
        self._loaded = None
        self.memory.clear()
        self.model = self._build(experience)
        self.current_task = experience.task_index
        learned = self.lifecycle.learned(experience.stage)
        self._trained = self.scenario.stream_tasks[:learned]
        self._load(carried)
        self.past.load_tensors(carried.get("past_selves", {}))
        task = self.scenario.tasks[experience.task_index]
        self.past.start(task, self.model, experience.first_step)
        self.lifecycle.started()

    def _files_to_carry(self) -> Files:
        return {} if self.model is None else self.files()

    def _build(self, experience: TaskStart) -> Any:
        options = self.scenario.agent
        env = self._env = experience.make_env(interleaved=self.lifecycle.is_interleaved)
        arguments = build_arguments(options.arguments, env.action_space, self.scenario.folder)
        if options.normalize is not None:
            env = self.normalizer = TaskNormalize(
                env,
                options.normalize,
                gamma=float(arguments.get("gamma", 0.99)),
                id_width=self.scenario.id_width,
                stage=experience.stage,
            )
        model_class = registry.load(self.algorithm.target, self.scenario.folder)
        model = model_class(
            policy_name(options.policy, options.algorithm, env.observation_space),
            env,
            seed=experience.seed,
            device=self.device,
            **arguments,
        )
        wanted = options.arguments.get("policy_kwargs") or {}
        mappings = [*network_changes(wanted), *self.networks]
        self.networks.clear()
        if self.has_heads:
            mappings.append(lambda policy: heads.install_heads(policy, self.scenario.id_width))
        install(model, mappings)
        set_weight_decay(model.policy, wanted.get("weight_decay"))
        self.takes_masks = "action_masks" in inspect.signature(model.predict).parameters
        return model

    def _load(self, carried: Files) -> None:
        carry, options = self.scenario.carry, self.scenario.agent
        source = carried if carry.weights and "policy" in carried else self.initial
        if "policy" in source:
            tensors = source["policy"]
            if source is carried:
                tensors = self.lifecycle.blended(tensors, policy_tensors(self.model))
            load_policy(self.model, tensors, self.lifecycle.is_fresh)
        if self.normalizer is not None and options.normalize is not None:
            statistics = carried.get("normalization") or self.initial.get("normalization", {})
            self.normalizer.load_tensors(carried_statistics(statistics, options.normalize))
        if carry.optimizer and "optimizer" in carried:
            load_optimizers(self.model, carried["optimizer"])
        if carry.replay_buffer and "replay_buffer" in carried:
            arrays = {name: t.numpy() for name, t in carried["replay_buffer"].items()}
            load_buffer_arrays(self.model.replay_buffer, arrays)

    # -- learning ----------------------------------------------------------------------------------

    def learn(self, experience: TaskStart, watch: Watch, log: Log) -> None:
        """Take and learn from exactly ``experience.steps`` environment steps.

        Where the lifecycle is frozen, no step is taken and ``watch`` is called as if they were.

        Raises:
            Diverged: If a gradient is not finite; the step is not taken.
        """
        n_envs = self.scenario.n_envs
        if self.lifecycle.learned(experience.stage) <= experience.stage:
            for step in range(n_envs, experience.steps + 1, n_envs):
                watch(step)
            self.close()
            return
        self.model.set_logger(stream_logger(log, experience.first_step))
        on_policy = isinstance(self.model, OnPolicyAlgorithm)
        keeps = on_policy and self.memory.wanted

        def look(step: int) -> None:
            watch(step)
            self.past.look(self.model, step, experience.first_step)

        callback = Watching(look, self._record_rollout if keeps else None)
        with self._open_doors():
            if on_policy:
                learn_on_policy(self.model, experience.steps, callback, self.lifecycle.updated)
            else:
                with exploring(self.model, self.lifecycle.exploration):
                    learn_off_policy(self.model, experience.steps, callback, self.lifecycle.updated)
        self.close()

    def train_more(self, updates: int) -> None:
        """Do gradient updates on the replay buffer after the task, without environment steps.

        A method calls it in ``post_adapt``, after it has opened the doors that they shall go
        through.
        """
        with self._open_doors():
            self.model.train(batch_size=self.model.batch_size, gradient_steps=updates)

    @contextmanager
    def _open_doors(self) -> Iterator[None]:
        parameters, targets = named_parameters(self.policy), target_parameters(self.policy)
        self.gradients.attach(parameters, optimizers_of(self.policy), targets)
        if not isinstance(self.model, OnPolicyAlgorithm):
            self.memory.attach(self.model.replay_buffer)
        try:
            with self.lifecycle.learning():
                yield
        finally:
            self.gradients.detach()
            self.memory.detach()
            self.lifecycle.detach()

    def _record_rollout(self) -> None:
        self.memory.record(samples.raw_rollout(self.model.rollout_buffer, self.normalizer))

    def close(self) -> None:
        """Close the training environments of the current task, where they are open."""
        if self._env is not None:
            self._env.close()
        self._env = None

    # -- what methods read -------------------------------------------------------------------------

    def observations(self, count: int, rng: np.random.Generator) -> Arrays:
        """Return up to ``count`` observations of the finished task, as its environment gave them.

        Off-policy they are drawn from the replay buffer; on-policy from the last rollouts that
        ``memory.keep_rollouts`` asked for. By key; "" for an observation that is no Dict.
        """
        return samples.observations(self.model, self.memory, count, rng)

    def transitions(self, count: int, rng: np.random.Generator) -> Arrays:
        """Return up to ``count`` rows of the finished task, each at most once.

        Off-policy they are transitions of the replay buffer (``stored_rows``); on-policy rows of
        the rollouts that ``memory.keep_rollouts`` asked for (``rollout_arrays``).
        """
        return samples.transitions(self.model, self.memory, count, rng)

    def rollouts(self) -> list[Arrays]:
        """Return the kept rollouts in time order; each array has the shape (steps, n_envs, ...)."""
        return self.memory.rollouts

    def batch_observations(self, count: int, rng: np.random.Generator) -> Any:
        """Return observations of what is being learned from now, as the policy takes them."""
        now = samples.current_observations(self.model, self.normalizer, count, rng)
        tensors, _ = self.policy.obs_to_tensor(samples.as_seen(self.policy.observation_space, now))
        return tensors

    def recent_scores(self, count: int) -> list[float]:
        """Return how the last training episodes of the current task went, oldest first.

        As scores of the task (``score:``): 0 like a random policy, 1 like the reference; or 1 and 0
        for success. They are of the acting that explores, not of the policy that is evaluated.

        Args:
            count: At most so many, and at most 100.
        """
        form = self.scenario.score_of(self.current_task)
        if form == "success":
            return [float(success) for success in self.model.ep_success_buffer][-count:]
        returns = [float(info["r"]) for info in self.model.ep_info_buffer][-count:]
        if form is None:
            return returns
        return [(r - form.random) / (form.reference - form.random) for r in returns]

    def policy_input(self, arrays: Arrays) -> Any:
        """Return observations as the policy takes them: normalised, as tensors."""
        batch: Observations = arrays.get("", arrays)
        if self.normalizer is not None:
            batch = self.normalizer.normalize_obs(batch)
        seen = samples.as_seen(self.policy.observation_space, batch)
        tensors, _ = self.policy.obs_to_tensor(seen)
        return tensors

    def batch(self, rows: Arrays) -> dict[str, Tensor]:
        """Return stored rows as a batch of the buffer: normalised, by flat name."""
        return samples.batch(self.model, self.normalizer, rows)

    def log(self, tag: str, value: float) -> None:
        """Log a number with the algorithm's own, at their next dump: ``method/<name>/<what>``."""
        self.model.logger.record(tag, value)

    # -- acting ------------------------------------------------------------------------------------

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose id the policy is shown, and whether its own view is missing."""
        unseen = (self.has_heads or self.lifecycle.has_views) and task_index not in self._trained
        return (self._trained[-1] if self.has_heads and unseen else task_index), unseen

    @property
    def random_spaces(self) -> tuple[gym.Space[Any], ...]:
        """The spaces whose generators training draws from."""
        return (self.model.action_space,)

    @contextmanager
    def view(self, task_index: int) -> Iterator[Any]:
        """Act as for that task: in its view where a method keeps one, else as the policy is."""
        was_training = self.policy.training
        is_current = task_index == self.current_task
        chosen = nullcontext() if is_current else self.lifecycle.view(task_index)
        with self.lifecycle.measuring(), chosen:
            self.policy.set_training_mode(False)
            try:
                yield self._act
            finally:
                self.policy.set_training_mode(was_training)

    def _act(
        self,
        observations: Observations,
        state: Any,
        episode_starts: NDArray[np.bool_],
        *,
        deterministic: bool,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[Any], Any]:
        if self.normalizer is not None:
            observations = self.normalizer.normalize_obs(observations)
        takes_masks = action_masks is not None and self.takes_masks
        masks = {"action_masks": action_masks} if takes_masks else {}
        actions, state = self.model.predict(
            observations, state, episode_starts, deterministic, **masks
        )
        return actions, state

    # -- checkpoints -------------------------------------------------------------------------------

    def files(self) -> Files:
        """Return what the next task start needs; each tensor a contiguous copy."""
        if self._loaded is not None:  # not started since: a group that is not in the task of now
            return self._loaded
        files = {"policy": policy_tensors(self.model)}
        if self.past.selves:
            files["past_selves"] = self.past.tensors()
        if self.normalizer is not None:
            files["normalization"] = self.normalizer.tensors()
        if self.scenario.carry.optimizer:
            files["optimizer"] = optimizer_tensors(self.model)
        if self.scenario.carry.replay_buffer:
            arrays = buffer_arrays(self.model.replay_buffer)
            files["replay_buffer"] = {name: torch.as_tensor(a) for name, a in arrays.items()}
        return files

    def load_files(self, files: Files) -> None:
        """Take back what ``files`` gave; the next ``start`` carries it into its model."""
        self._loaded = files

    def load_trained(self, files: Files) -> None:
        """Take the weights and statistics of the end of the task that was started."""
        load_policy(self.model, files["policy"], is_fresh=lambda _: False)
        if self.normalizer is not None:
            self.normalizer.load_tensors(files.get("normalization", {}))

    @contextmanager
    def overlaid(self, tensors: dict[str, Tensor], statistics: dict[str, Tensor]) -> Iterator[None]:
        """Act with other policy tensors and normalisation inside the block.

        Args:
            tensors: By the names of ``policy.state_dict()``; those left out stay as they are.
            statistics: As ``TaskNormalize.tensors`` gives them; empty where nothing is normalised.
        """
        saved = {name: t.clone() for name, t in self.policy.state_dict().items() if name in tensors}
        saved_statistics = self.normalizer.tensors() if self.normalizer is not None else {}
        self.policy.load_state_dict(tensors, strict=False)
        if self.normalizer is not None:
            self.normalizer.load_tensors(statistics, rewards=False)
        try:
            yield
        finally:
            self.policy.load_state_dict(saved, strict=False)
            if self.normalizer is not None:
                self.normalizer.load_tensors(saved_statistics)


def _device(name: str) -> str:
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("agent.device: cuda was asked for and torch sees none; write cpu or auto")
    return name
