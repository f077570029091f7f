"""The engine: what takes the place of a model's ``train`` and ``collect_rollouts``.

The model stays Stable-Baselines3's, with its networks, buffers, counters and logger, so that
checkpoints, evaluation and methods find all where it ever is. While the doors are open, two
functions of the instance are the engine's.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import QRDQN, TQC, MaskablePPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from torch import nn
from torch.optim import Optimizer

from holdfast.agents.base.gradient_norms import GradientNorms
from holdfast.agents.base.parameters import (
    ENTROPY_COEFFICIENT,
    group_of,
    named_parameters,
    optimizers_of,
    target_parameters,
)
from holdfast.agents.doors.gradients import Works
from holdfast.errors import UsageError

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Engine:
    """Learns and collects for one model.

    Args:
        model: A Stable-Baselines3 model that ``check`` has passed.
        works: What methods do to its updates.
        norms: Takes how large gradients are.
    """

    def __init__(self, model: Any, works: Works, norms: GradientNorms) -> None:
        if works.hosted and isinstance(model, _ON_POLICY):
            raise UsageError(
                "agent.engine: compiled: a method acts on the host after every update "
                "(gradients.after_update), and all of a rollout's are one call; use engine: sb3"
            )
        start_jax()
        # Here: they import jax, which only this engine needs.
        from holdfast.agents.compiled.off_policy import ReplayLearning
        from holdfast.agents.compiled.on_policy import RolloutLearning

        self._model = model
        updates = _updates(model, works)
        self._replayed: ReplayLearning | None = None
        self._train: Any
        if isinstance(model, _ON_POLICY):
            self._train = RolloutLearning(model, updates["policy"], norms).train
            return
        parameters = dict(model.policy.named_parameters())
        names = {id(parameter): name for name, parameter in parameters.items()}
        followed = {names[id(t)]: name for name, t in target_parameters(model.policy).items()}
        replayed = self._replayed = ReplayLearning(model, updates, followed, _acts, norms)
        self._train = replayed.train

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Take the place of the model's functions inside the block."""
        from holdfast.agents.compiled.collection import collecting

        model = self._model
        model.train = self._train
        if isinstance(model, DQN | QRDQN):
            model._on_step = self._on_step  # type: ignore[method-assign]  # for the block
        try:
            with collecting(model):
                yield
        finally:
            self.settle()
            for name in ("train", "_on_step"):
                vars(model).pop(name, None)  # the instance's; the class's shows again

    def settle(self) -> None:
        """Write all that has changed into the model; what is changed there will be read again."""
        if self._replayed is not None:
            self._replayed.settle()

    def _on_step(self) -> None:
        """Let DQN's target network follow, whose weights are here."""
        model = self._model
        if (model._n_calls + 1) % max(model.target_update_interval // model.n_envs, 1) == 0:
            self.settle()
        type(model)._on_step(model)


_ON_POLICY = (PPO, MaskablePPO, A2C)
_OFF_POLICY = (DQN, QRDQN, SAC, TQC, TD3)  # and DDPG, which is TD3


def _acts(name: str) -> bool:
    return name.startswith(("actor.", "q_net.", "quantile_net."))


def _updates(model: Any, works: Works) -> dict[str, Any]:
    """Return the update of each optimizer, by what it moves."""
    from holdfast.agents.compiled.update import Update

    policy = model.policy
    parameters = named_parameters(policy)
    groups = {name: group_of(name, policy) for name in parameters}
    norm = getattr(model, "max_grad_norm", None)

    def update(optimizer: Optimizer) -> Update:
        own = _members(optimizer, parameters)
        return Update(optimizer, own, groups, works, norm=norm)

    found: dict[str, Any] = {}
    entropy = getattr(model, "ent_coef_optimizer", None)
    if entropy is not None:
        own = {ENTROPY_COEFFICIENT: model.log_ent_coef}
        found["entropy"] = Update(entropy, own, {}, Works(), norm=None)
    if isinstance(getattr(policy, "optimizer", None), Optimizer):
        return found | {"policy": update(policy.optimizer)}
    # In the order in which Stable-Baselines3 makes its hooks: methods' functions count on it.
    return found | {name: update(getattr(policy, name).optimizer) for name in ("actor", "critic")}


def _members(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]
) -> dict[str, nn.Parameter]:
    members = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in parameters.items() if id(p) in members}


def check(model: Any, device: Any) -> None:
    """Raise unless the engine can learn for this model.

    Raises:
        UsageError: It cannot; the text names what.
    """
    from holdfast.agents.compiled.optimizers import Stepper

    where = "agent.engine: compiled"
    if not isinstance(model, _ON_POLICY + _OFF_POLICY):
        raise UsageError(f"{where} does not know {type(model).__name__}; use engine: sb3")
    if getattr(model, "use_sde", False):
        raise UsageError(f"{where} knows no state-dependent noise (use_sde); use engine: sb3")
    if str(device) != "cpu":
        raise UsageError(f"{where} was not tried on {device}; write device: cpu or engine: sb3")
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for name, module in model.policy.named_modules():
        if isinstance(module, kinds):
            raise UsageError(
                f"{where} cannot trace {type(module).__name__} (policy.{name}), which changes or "
                "draws something while it learns; use engine: sb3"
            )
    for optimizer in optimizers_of(model.policy):
        Stepper(optimizer, _members(optimizer, named_parameters(model.policy)))


def start_jax() -> None:
    """Import jax as cells need it: one thread, on the CPU, with compiled programs kept on disk.

    A process whose jax has begun to compute is left as it is.
    """
    if "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        os.environ["NPROC"] = "1"  # XLA's own pool of threads: handing over to it costs too
    state = np.random.get_state()
    import jax

    settings: Any = jax.config  # jax makes its attributes while it is imported
    # A thread of its own for each call would cost more than small programs do.
    settings.update("jax_cpu_enable_async_dispatch", False)
    if settings.jax_compilation_cache_dir is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        settings.update("jax_compilation_cache_dir", str(Path(home) / "holdfast" / "xla"))
        settings.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.devices()
    os.environ.pop("NPROC", None)
    np.random.set_state(state)  # importing it draws, which only the first cell of a process would
