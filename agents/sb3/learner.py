"""Any Stable-Baselines3 algorithm as a continual learner: unmodified, behind doors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from holdfast import registry
from holdfast.agents.algorithms import losses
from holdfast.agents.base.agent import Boundary, Files, Log, Observations, Shown, TaskStart, Watch
from holdfast.agents.base.buffers import (
    Arrays,
    as_seen,
    by_key,
    raw_rollout,
)
from holdfast.agents.base.demonstrations import mixing, stored_as
from holdfast.agents.base.device import device_of
from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.base.observations import TaskNormalize
from holdfast.agents.base.parameters import (
    Named,
    overlaid,
)
from holdfast.agents.base.pauses import Again, Inside, Pauses, Stop, Turn, of_file
from holdfast.agents.detection.detector import Detector, Watched
from holdfast.agents.doors.doors import Doors, Facts, facts_of
from holdfast.agents.doors.exploration import Explorer, exploring
from holdfast.agents.doors.gradients import Gradients, Tensors, Works
from holdfast.agents.doors.lifecycle import Lifecycle, Plan
from holdfast.agents.doors.memory import Memory, Recent
from holdfast.agents.doors.networks import Networks, install
from holdfast.agents.doors.outputs import ACTING, Outputs, PolicyOutput
from holdfast.agents.doors.shown_actions import cloned
from holdfast.agents.modules import heads
from holdfast.agents.modules.initialisation import fresh_weights, layer_names
from holdfast.agents.modules.options import network_changes, set_weight_decay
from holdfast.agents.modules.units import HiddenLayer, activations, hidden_layers
from holdfast.agents.sb3 import carry
from holdfast.agents.sb3.arguments import build_arguments, policy_name
from holdfast.agents.sb3.budget import (
    Watching,
    act,
    learn_off_policy,
    learn_on_policy,
    stream_logger,
)
from holdfast.agents.sb3.callbacks import Callbacks
from holdfast.agents.sb3.constraint import Counted
from holdfast.agents.sb3.inside_task import Alone, has_limit, put_back, taken
from holdfast.agents.sb3.model_state import begin_again
from holdfast.agents.sb3.past_selves import PastSelves
from holdfast.agents.sb3.replay_rows import ReplayRows
from holdfast.agents.sb3.resets import Resets
from holdfast.agents.sb3.updates import attached
from holdfast.agents.sb3.weights_io import (
    check_policy,
    load_policy,
    of_checkpoint,
)
from holdfast.agents.sb3.whole_stream import Lasting, WholeStream
from holdfast.scenarios.schema.scenario import Scenario

_ACTOR_LOSSES = (
    "train/policy_gradient_loss",  # PPO
    "train/policy_loss",  # A2C
    "train/actor_loss",
    "train/loss",  # DQN; of PPO it is the sum of all
)


class StableBaselinesAgent:
    """A learner that builds a fresh Stable-Baselines3 model at every task start.

    Methods reach it by ``doors`` alone.

    Attributes:
        gradients: The gradient door, with what methods added for the coming task.
        memory: The memory door.
        networks: The networks door, with what is done to the coming policy.
        recent: What the memory door keeps.
        plan: What the lifecycle door was told.
        model: The Stable-Baselines3 model of the current task.
        current_task: Index of the task that the model was built for.
        initial: Weights that a task which carries none starts from (``agent.init``); else none.
        notices: What a method warns of, in a line each; shown when the task begins.
        past: What it plays against in self-play; empty elsewhere.
        entropies: Of ``per_task``: the coefficient of each task at its last end.
        callbacks: The user's own; None where the scenario has none.
        is_interleaved: Whether the current model learns from all tasks of the stream in turns.
        detector: Finds the boundaries that methods are told of; None where nothing does.
        counted: Counts what the current task costs, and weighs it; None where it costs nothing.
        resets: Begins the networks again now and then; None where the scenario asks for none.
        shown: Demonstrations of the current task; None where there are none.
    """

    model: Any

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.algorithm = registry.algorithm(scenario.agent.algorithm)
        self.gradients = Gradients(self)
        self.memory, self.recent = Memory(self), Recent()
        self.networks = Networks()
        self.plan = Plan()
        self._others = losses.Others()
        self.gradient_norms = GradientNorms()
        self._engine: Any = None  # the compiled one, while the doors are open
        self._greedy: Any = None  # what acts where the compiled one learns and is measured
        self.has_heads = scenario.stream.task_id == "heads"
        self.normalizer: TaskNormalize | None = None
        self.model = None
        self.initial: Files = {}
        self.notices: list[str] = []
        self.past = PastSelves()
        self.entropies: Named = {}
        self.callbacks: Callbacks | None = None
        self._loaded: Files | None = None
        self._env: VecEnv | None = None
        self._begun: TaskStart | None = None
        self.is_interleaved = False
        self.detector: Detector | None = None
        self.counted: Counted | None = None
        self.resets: Resets | None = None
        self.shown: Shown | None = None
        self._rows = ReplayRows()
        self._whole: WholeStream | None = None  # where nothing happens at boundaries
        self._explorer: Explorer | None = None
        self._look: Watch = lambda _: None  # what is told of each step of the task
        self._methods: dict[str, list[Any]] = {}
        self.takes_masks = False
        self.current_task = 0

    @property
    def policy(self) -> Any:
        """The Stable-Baselines3 policy of the current task, as it is now."""
        self._settle()
        return self.model.policy

    def _settle(self) -> None:
        """Let the model hold what an engine has learned for it."""
        if self._engine is not None:
            self._engine.settle()

    @property
    def device(self) -> torch.device:
        """Device of the policy's tensors; see ``device_of`` for what is refused."""
        return device_of(self.scenario.agent.device)

    def output(self) -> PolicyOutput:
        """Return the current policy as a module whose forward gives its output."""
        return PolicyOutput(self.policy)

    def doors(self, method: Any) -> Doors:
        """Return what a method is handed: the doors that its class declares."""
        owner = self._owner(method)
        doors = Doors(
            method,
            {
                "gradients": lambda: self.gradients,
                "memory": lambda: self.memory,
                "networks": lambda: self.networks,
                "lifecycle": lambda: Lifecycle(self, lambda name: method.due(doors, name), owner),
                "output": lambda: Outputs(self),
            },
            facts=self._facts,
            step=lambda: int(self.model.num_timesteps),
            log=lambda tag, value: self.model.logger.record(tag, value),
            warn=lambda text: self.notices.append(text),
        )
        return doors

    def _owner(self, method: Any) -> str:
        """Return what names a method in this agent, in every process that runs the cell."""
        alike = self._methods.setdefault(type(method).__name__, [])
        if not any(method is known for known in alike):
            alike.append(method)
        place = next(number for number, known in enumerate(alike) if known is method)
        return f"{type(method).__name__}-{place}"

    def _facts(self) -> Facts:
        model, n_envs, length = self.model, self.scenario.n_envs, 1
        if model is not None:
            n_envs = model.n_envs
            on_policy = isinstance(model, OnPolicyAlgorithm)
            length = model.n_steps if on_policy else model.train_freq.frequency
        return facts_of(
            self.scenario,
            device=self.device,
            current_task=self.current_task,
            n_envs=n_envs,
            round_steps=length * n_envs,
            observation_space=None if model is None else model.observation_space,
            settings=self._settings,
        )

    @cached_property
    def _settings(self) -> dict[str, Any]:
        """The algorithm's arguments as the scenario has them, over their defaults."""
        made = registry.load(self.algorithm.target, self.scenario.folder)
        stated = inspect.signature(made).parameters.values()
        defaults = {p.name: p.default for p in stated if p.default is not p.empty}
        return defaults | self.scenario.agent.arguments

    # -- a task start is one operation -------------------------------------------------------------

    def start(self, experience: TaskStart) -> None:
        """Build a fresh model for this task and load what is carried into it.

        Where nothing happens at boundaries that is done once, and the model learns the stream.
        """
        is_first = self.model is None and self._loaded is None
        files = {} if is_first or self.plan.everything_fresh else self.files()
        is_resumed, self._loaded = self._loaded is not None, None
        may_grow = bool(self.networks.maps or self.networks.maps_above_heads)
        self.recent.clear()
        self._begun, self._rows = experience, ReplayRows()
        self.is_interleaved = self.plan.is_interleaved
        self.model = self._build(experience)
        if (resets := self.scenario.agent.resets) is not None:
            self.resets = Resets(self.model, resets.every, experience.seed)
        self.current_task = experience.task_index
        told = of_checkpoint if is_resumed else lambda _: nullcontext()
        if is_resumed and self.scenario.carry.weights and "policy" in files:
            with told("policy"):
                check_policy(self.model, files["policy"], may_grow=may_grow)
        carry.load(self, files, told)
        if self.counted is not None:
            self.counted.weigh_rows()  # those that were carried had another multiplier
        self.entropies = files.get("entropy", {})
        if specs := self.scenario.agent.callbacks:
            kept = of_file(files["callbacks"]) if "callbacks" in files else {}
            self.callbacks = Callbacks(specs, self.scenario.folder, kept)
        with told("past_selves"):
            self.past.load_tensors(files.get("past_selves", {}))
        task = self.scenario.tasks[experience.task_index]
        self.past.start(task, self.model, experience.first_step)
        self.plan.started(experience.stage, self.scenario.stream_tasks)

    def _show(self, experience: TaskStart) -> None:
        """Let demonstrations of the task, where it has some, take their part in every update.

        Only who learns reads the file: a trained agent is opened without it.
        """
        self.shown = None
        if self.scenario.tasks[experience.task_index].demonstrations is None:
            return
        self.shown = experience.demonstrations()
        if self.shown is None:
            return
        rows = stored_as(self.model, self.shown)
        if self.shown.share:
            mixer = mixing(rows, self.shown.share, self.memory.batch)
            self.recent.mixers.insert(0, mixer)  # methods have the last word
        if self.shown.cloning:
            term = partial(cloned, Outputs(self).actor, self.shown.cloning)
            self.gradients.add(term, batch=lambda _: self._drawn(rows), groups=ACTING)

    def _drawn(self, rows: Arrays) -> Tensors:
        """Return rows of demonstrations, drawn as ``mixing`` draws them."""
        size = int(self.model.batch_size)
        drawn = np.random.randint(len(rows["actions"]), size=size)
        chosen = {name: values[drawn] for name, values in rows.items()}
        actions = torch.as_tensor(chosen["actions"], device=self.device)
        return {"seen": self.policy_input(by_key(chosen, "observations")), "actions": actions}

    def _build(self, experience: TaskStart) -> Any:
        options = self.scenario.agent
        env = self._env = experience.make_env(interleaved=self.is_interleaved)
        arguments = build_arguments(options.arguments, env.action_space, self.scenario.folder)
        if self.algorithm.is_streaming:  # it normalises what it is shown, but for the task id
            own = arguments.get("policy_kwargs") or {}
            arguments["policy_kwargs"] = {**own, "id_width": self.scenario.id_width}
        env = self._normalized(self._costed(self._watched(env), experience), experience.stage)
        model_class = registry.load(self.algorithm.target, self.scenario.folder)
        model = model_class(
            policy_name(options.policy, options.algorithm, env.observation_space),
            env,
            seed=experience.seed,
            device=self.device,
            **arguments,
        )
        wanted = options.arguments.get("policy_kwargs") or {}
        mappings = [*network_changes(wanted), *self.networks.maps]
        if self.has_heads:
            mappings.append(lambda policy: heads.install_heads(policy, self.scenario.id_width))
        install(model, mappings + self.networks.maps_above_heads)
        self.networks.maps.clear()
        self.networks.maps_above_heads.clear()
        set_weight_decay(model.policy, wanted.get("weight_decay"))
        if options.engine == "compiled":
            # Here: the other needs none of it.
            from holdfast.agents.compiled.actors import Greedy
            from holdfast.agents.compiled.engine import check

            check(model, self.device)
            self._greedy = Greedy(model)
        self.takes_masks = "action_masks" in inspect.signature(model.predict).parameters
        if self.counted is not None:
            self.counted.follow(model, is_compiled=options.engine == "compiled")
        return model

    def _watched(self, env: VecEnv) -> VecEnv:
        """Return environments that a detector looks at, where the scenario asks for one."""
        options = self.scenario.detector
        if options is None or not self.scenario.detects_boundaries:
            return env
        if self.detector is None:
            assert self._begun is not None
            spaces = env.observation_space, env.action_space
            self.detector = Detector(options, *spaces, env.num_envs, self._begun.seed)
        return Watched(env, self.detector)

    def _costed(self, env: VecEnv, experience: TaskStart) -> VecEnv:
        """Return environments whose costs are counted, where the task has any."""
        cost = self.scenario.tasks[experience.task_index].cost
        self.counted = None
        if cost is not None:
            self.counted = Counted(env, cost, self.scenario.agent.constraint)
        return self.counted or env

    @property
    def training_costs(self) -> dict[str, float] | None:
        """What the episodes of the current stage cost while they were learned from."""
        return None if self.counted is None else asdict(self.counted.training)

    def _normalized(self, env: VecEnv, stage: int) -> VecEnv:
        """Return environments whose signals are normalised, where the scenario asks for that."""
        options = self.scenario.agent
        if options.normalize is None:
            return env
        self.normalizer = TaskNormalize(
            env,
            options.normalize,
            gamma=float(options.arguments.get("gamma", 0.99)),
            id_width=self.scenario.id_width,
            stage=stage,
        )
        return self.normalizer

    # -- learning ----------------------------------------------------------------------------------

    def learn(
        self,
        experience: TaskStart,
        watch: Watch,
        log: Log,
        pauses: Pauses | None = None,
        boundary: Boundary | None = None,
    ) -> None:
        """Take and learn from exactly ``experience.steps`` environment steps.

        Where the lifecycle is frozen, no step is taken and ``watch`` is called as if they were.

        Args:
            experience: The task.
            watch: Called after every environment step.
            log: Takes scalars.
            pauses: Where checkpoints are taken inside the task; None where there are none.
            boundary: Tells methods of a boundary that the detector found.

        Raises:
            Diverged: If a gradient is not finite; the step is not taken.
        """
        turn = None
        if experience.is_hidden:
            self._whole = self._whole or WholeStream(self, self.scenario)
        if pauses is not None and pauses.every:
            stop: Stop = Alone(self, pauses, experience.steps)
            if self._whole is not None and self.scenario.keeps_worlds:
                stop = Lasting(self._whole, experience, pauses)
            turn = self.turn(pauses, stop, experience.steps)
        if self._whole is not None:
            self._begun, self._rows = experience, ReplayRows()
            if self.counted is not None:
                self.counted.begin_stage()
            self.current_task = experience.task_index
            self.plan.reached(experience.stage, self.scenario.stream_tasks)
            self._whole.learn(experience, watch, log, pauses, turn, boundary)
            return
        self.learn_by_turns(experience, watch, log, turn)

    def turn(self, pauses: Pauses, stop: Stop, steps: int, scale: int = 1) -> Turn:
        """Return what says when this learner pauses; arguments as those of ``Turn``."""
        by_steps = not self.algorithm.on_policy or self.algorithm.is_streaming
        waits = self.scenario.n_envs == 1 and by_steps and not self.scenario.endless
        return Turn(pauses, stop, steps, scale, waits)

    def learn_by_turns(
        self, experience: TaskStart, watch: Watch, log: Log, turn: Turn | None
    ) -> None:
        """Learn as ``learn`` does, and pause when it is this learner's turn."""
        n_envs = self.scenario.n_envs
        if self.plan.learned(experience.stage) <= experience.stage:
            for step in range(n_envs, experience.steps + 1, n_envs):
                watch(step)
            self.close()
            return
        self._show(experience)
        self.model.set_logger(stream_logger(log, experience.first_step))
        on_policy = isinstance(self.model, OnPolicyAlgorithm)
        keeps = on_policy and self.recent.wanted

        def look(step: int) -> None:
            watch(step)
            if self.past.rule is not None:
                self._settle()
                self.past.look(self.model, step, experience.first_step)

        self._look = look
        callback = Watching(look, self.record_rollout if keeps else None)
        told, resume = self._updated(turn, callback), None
        if turn is not None and turn.pauses.resumed is not None:
            resume = partial(self._resume, turn)
        with self._open_doors():
            called = callback.beside(self.callbacks)
            given = self.model, experience.steps, called, told, resume
            if on_policy:
                learn_on_policy(*given, opening=self.plan.open)
            else:
                with exploring(self.model, self.plan.exploration) as self._explorer:
                    learn_off_policy(*given, opening=self.plan.open)
        self.close()

    def _updated(self, turn: Turn | None, callback: Watching) -> Callable[[int], None]:
        """Return what is called after each round of collecting and updating."""
        if turn is None and self.counted is None and self.resets is None:
            return self.plan.updated
        if turn is not None:
            turn.begin(0)

        def updated(step: int) -> None:
            self.plan.updated(step)
            self._weigh_costs()
            self.reset_if_due()
            if turn is None:
                return
            turn.look(step, at_start=callback.at_start(self._env), is_endless=self.is_endless())

        return updated

    def reset_if_due(self) -> None:
        """Let the networks begin again, where the scenario asks for it and it is time."""
        if self.resets is not None and self.resets.is_due:
            self._settle()  # and read again what begins
            self.resets.reset()

    def _weigh_costs(self) -> None:
        """Move the multiplier of costs, once the agent learns, and log it."""
        if self.counted is None:
            return
        model = self.model
        if isinstance(model, OnPolicyAlgorithm) or model.num_timesteps > model.learning_starts:
            self.counted.move()
        for tag, value in self.counted.scalars().items():
            model.logger.record(tag, value)

    def _resume(self, turn: Turn) -> None:
        turn.stop.resume()
        turn.begin(self.model.num_timesteps)

    def is_endless(self) -> bool:
        """Return whether a world must not begin again, as no episode has ended or seems to end."""
        if self.scenario.keeps_worlds:  # it is saved, and does not begin again
            return False
        return not self.model.ep_info_buffer and not has_limit(self._env)

    def train_more(self, updates: int) -> None:
        """Do gradient updates on the replay buffer after the task, without environment steps.

        A method calls it in ``post_adapt``, after it has opened the doors that they shall go
        through.
        """
        with self._open_doors():
            self.model.train(batch_size=self.model.batch_size, gradient_steps=updates)

    @contextmanager
    def _open_doors(self) -> Iterator[None]:
        if not isinstance(self.model, OnPolicyAlgorithm):
            self.recent.attach(self.model.replay_buffer)
        try:
            with self.plan.learning(), self._attached():
                yield
        finally:
            # Forget what methods asked for in this task; ``pre_adapt`` asks for the next.
            self.gradients.works = Works()
            self.recent.detach()
            self.plan.detach()

    @contextmanager
    def _attached(self) -> Iterator[None]:
        """Let the methods at the updates, by hooks or in compiled programs."""
        if self.scenario.agent.engine == "sb3":
            with attached(self.policy, self.gradients.works):
                yield
            return
        from holdfast.agents.compiled.engine import Engine  # here: the other needs none of it

        self._engine = Engine(self.model, self.gradients.works, self.gradient_norms)
        try:
            with self._engine.attached():
                yield
        finally:
            self._engine = None

    def try_out(self, tensors: Named, steps: int) -> list[float]:
        """Take steps of the task by other tensors; see ``Lifecycle.try_out``."""
        first = self.model.num_timesteps
        with overlaid(self.policy, tensors):
            returns = act(self.model, steps, takes_masks=self.takes_masks)
        n_envs = self.model.n_envs
        for step in range(first + n_envs, first + steps + 1, n_envs):
            self._look(step)
        return returns

    def opened(self, stack: ExitStack) -> None:
        """Open the doors until the stack is closed."""
        stack.enter_context(self._open_doors())

    def record_rollout(self) -> None:
        """Keep the rollout that was collected, as a method asked for that."""
        self.recent.record(raw_rollout(self.model.rollout_buffer, self.normalizer))

    def close(self) -> None:
        """Close the training environments of the current task, where they are open."""
        if self._env is not None:
            self._env.close()
        self._env = None

    # -- what doors read ---------------------------------------------------------------------------

    def layer_names(self) -> set[str]:
        """Return the names of the weights and biases of layers."""
        return layer_names(self.policy)

    def fresh(self, names: set[str], rng: np.random.Generator) -> Named:
        """Return newly drawn values of parameters."""
        return fresh_weights(self.policy, names, rng)

    def units(self) -> list[HiddenLayer]:
        """Return the hidden layers of the networks that learn."""
        return hidden_layers(self.policy)

    def activity(self, observations: Any, names: Collection[str]) -> dict[str, Tensor]:
        """Return what activations of hidden layers put out."""
        return activations(self.policy, observations, names)

    def task_rows(self, name: str, task: int) -> Tensor | None:
        """Return which entries of a parameter belong to a task's head; None: tasks share it."""
        tasks = heads.head_tasks(self.policy, name)
        return heads.rows_of(self.policy.get_parameter(name), task, tasks) if tasks else None

    def loss_inputs(
        self, parameters: Named, rows: Mapping[str, Any], noise: torch.Generator
    ) -> Tensors:
        """Return what the algorithm's loss depends on besides these parameters."""
        batch = self.memory.batch(dict(rows))
        inputs = losses.inputs_of(self.model, parameters, batch, noise, self._others)
        # A compiled update fills in what the model's other tensors are by then.
        return inputs if self._engine is None else {**inputs, "others": {}}

    def loss_gradient(self, parameters: Named, inputs: Tensors) -> Named:
        """Return the gradient of the algorithm's own loss."""
        return losses.loss_gradient(self.model, parameters, inputs)

    def last_loss(self) -> float | None:
        """Return the actor's own loss in the last round of updates, as the algorithm logs it."""
        logged = self.model.logger.name_to_value
        return next((float(logged[tag]) for tag in _ACTOR_LOSSES if tag in logged), None)

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
        seen = as_seen(self.policy.observation_space, batch)
        tensors, _ = self.policy.obs_to_tensor(seen)
        return tensors

    # -- acting ------------------------------------------------------------------------------------

    def shown_task(self, task_index: int) -> tuple[int, bool]:
        """Return the task whose id the policy is shown, and whether its own view is missing."""
        return self.plan.shown(task_index, has_heads=self.has_heads)

    @property
    def random_spaces(self) -> tuple[gym.Space[Any], ...]:
        """The spaces whose generators training draws from."""
        return (self.model.action_space,)

    @contextmanager
    def view(self, task_index: int) -> Iterator[Any]:
        """Act as for that task: in its view where a method keeps one, else as the policy is."""
        was_training = self.policy.training
        with self.plan.viewing(task_index, self.current_task):
            self.policy.set_training_mode(False)
            if self._greedy is not None:
                self._greedy.look()
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
        if self._greedy is not None and deterministic and not masks:
            return self._greedy(observations), state
        actions, state = self.model.predict(
            observations, state, episode_starts, deterministic, **masks
        )
        return actions, state

    # -- pauses ------------------------------------------------------------------------------------

    def inside(self, number: int) -> Inside:
        """Return all that this learner is inside its task.

        Args:
            number: Of the pause in this task, from 1.
        """
        self._settle()
        cuts = not self.scenario.keeps_worlds
        return taken(self, number, self._rows, self._explorer, cuts=cuts)

    def put_back(self, inside: Inside) -> None:
        """Put back what ``inside`` gave, into a task that has just begun."""
        self._settle()  # and read again what is put back
        put_back(self, inside, self._rows, self._explorer)

    def worlds(self) -> list[Any]:
        """Return what the environments go on with when they are built again."""
        assert self._begun is not None
        assert self._env is not None
        return self._begun.worlds(self._env, interleaved=self.is_interleaved)

    def build_again(self, again: Again) -> None:
        """Close the environments and go on in new ones."""
        assert self._begun is not None
        assert self._env is not None
        given = {"interleaved": self.is_interleaved}
        self.go_on_in(self._begun.build_again(self._env, again, **given))

    def go_on_in(self, env: VecEnv) -> None:
        """Go on in these environments, newly built."""
        assert self._begun is not None
        self._env, statistics = env, {} if self.normalizer is None else self.normalizer.tensors()
        watched = self._watched(env)
        if self.counted is not None:
            watched = self.counted.go_on_in(watched)
        seen = self._normalized(watched, self._begun.stage)
        if self.normalizer is not None:
            self.normalizer.load_tensors(statistics)
        if self.past.rule is not None:
            seen.env_method("meet", self.past)
        begin_again(self.model, seen)

    # -- checkpoints -------------------------------------------------------------------------------

    def files(self) -> Files:
        """Return what the next task start needs; each tensor a contiguous copy."""
        if self._loaded is not None:  # not started since: a group absent from the current task
            return self._loaded
        self._settle()
        if self._whole is not None:
            return self._whole.files()
        return carry.files_of(self)

    def load_files(self, files: Files) -> None:
        """Take back what ``files`` gave; the next ``start`` carries it into its model."""
        self._loaded = files

    def load_trained(self, files: Files) -> None:
        """Take the weights and statistics of the end of the task that was started."""
        with of_checkpoint("policy"):
            check_policy(self.model, files["policy"])
            load_policy(self.model, files["policy"], is_fresh=lambda _: False)
        if self.normalizer is not None:
            with of_checkpoint("normalization"):
                self.normalizer.load_tensors(files.get("normalization", {}))

    @contextmanager
    def overlaid(self, tensors: dict[str, Tensor], statistics: dict[str, Tensor]) -> Iterator[None]:
        """Act with other policy tensors and normalisation inside the block.

        Args:
            tensors: By the names of ``policy.state_dict()``; those left out stay as they are.
            statistics: As ``TaskNormalize.tensors`` gives them; empty where nothing is normalised.
        """
        saved = {} if self.normalizer is None else self.normalizer.tensors()
        if self.normalizer is not None:
            self.normalizer.load_tensors(statistics, rewards=False)
        try:
            with overlaid(self.policy, tensors):
                yield
        finally:
            if self.normalizer is not None:
                self.normalizer.load_tensors(saved)
