"""Names that scenarios may use: algorithms, methods, and ``module:Name`` for the user's own.

Tables of text, so that ``validate`` and ``list`` need neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from holdfast.signature import Argument, Signature, signature

__all__ = [
    "ALGORITHMS",
    "METHODS",
    "Algorithm",
    "Argument",
    "Output",
    "Signature",
    "append_path",
    "closest",
    "load",
    "signature",
]

Output = Literal["distribution", "deterministic", "values"]

_DISCRETE = frozenset({"Discrete"})
_BOX = frozenset({"Box"})
_ANY = frozenset({"Box", "Discrete", "MultiDiscrete", "MultiBinary"})
_COUNTABLE = frozenset({"Discrete", "MultiDiscrete", "MultiBinary"})
_ALL_DOORS = frozenset({"gradients", "memory", "networks", "lifecycle"})


@dataclass(frozen=True)
class Algorithm:
    """What a Stable-Baselines3 algorithm can take, and by which doors a method reaches it.

    Attributes:
        target: ``module:Class``, as published.
        on_policy: Whether it learns from rollouts rather than from a replay buffer.
        actions: Names of the Gymnasium action spaces it takes.
        doors: Which of the four doors are open (DESIGN, section 4).
        output: What "the policy's output" is: a ``distribution`` over actions (categorical, or
            Gaussian before squashing), a ``deterministic`` action (as a unit Gaussian), action
            ``values`` (as a unit Gaussian), or None where one observation does not determine it.
    """

    target: str
    on_policy: bool
    actions: frozenset[str]
    doors: frozenset[str] = _ALL_DOORS
    output: Output | None = "distribution"


ALGORITHMS: dict[str, Algorithm] = {
    "ppo": Algorithm("stable_baselines3.ppo.ppo:PPO", True, _ANY),
    "a2c": Algorithm("stable_baselines3.a2c.a2c:A2C", True, _ANY),
    "dqn": Algorithm("stable_baselines3.dqn.dqn:DQN", False, _DISCRETE, output="values"),
    "sac": Algorithm("stable_baselines3.sac.sac:SAC", False, _BOX),
    "td3": Algorithm("stable_baselines3.td3.td3:TD3", False, _BOX, output="deterministic"),
    "ddpg": Algorithm("stable_baselines3.ddpg.ddpg:DDPG", False, _BOX, output="deterministic"),
    "tqc": Algorithm("sb3_contrib.tqc.tqc:TQC", False, _BOX),
    "qrdqn": Algorithm("sb3_contrib.qrdqn.qrdqn:QRDQN", False, _DISCRETE, output="values"),
    # Batch renormalisation splits by batch size and keeps running statistics: its networks stay as
    # they are.
    "crossq": Algorithm(
        "sb3_contrib.crossq.crossq:CrossQ",
        False,
        _BOX,
        doors=frozenset({"gradients", "memory", "lifecycle"}),
    ),
    # Conjugate gradients and a line search: a hook on gradients would fire in every Hessian-vector
    # product.
    "trpo": Algorithm("sb3_contrib.trpo.trpo:TRPO", True, _ANY, doors=frozenset({"lifecycle"})),
    # The recurrent state, not the observation alone, determines the output.
    "recurrent_ppo": Algorithm(
        "sb3_contrib.ppo_recurrent.ppo_recurrent:RecurrentPPO",
        True,
        _ANY,
        doors=frozenset({"gradients", "lifecycle"}),
        output=None,
    ),
    "maskable_ppo": Algorithm("sb3_contrib.ppo_mask.ppo_mask:MaskablePPO", True, _COUNTABLE),
}

METHODS: dict[str, str] = {
    "naive": "holdfast.continual.methods.naive:Naive",
    "isolated": "holdfast.continual.methods.isolated:Isolated",
    "joint": "holdfast.continual.methods.joint:Joint",
    "frozen": "holdfast.continual.methods.frozen:Frozen",
    "ewc": "holdfast.continual.methods.ewc:EWC",
    "cloning": "holdfast.continual.methods.cloning:Cloning",
    "replay": "holdfast.continual.methods.replay:Replay",
    "progressive": "holdfast.continual.methods.progressive:Progressive",
}


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None where none is near.

    >>> closest("lerning_rate", ["gamma", "learning_rate"])
    'learning_rate'
    """
    by_fold = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def load(target: str, folder: Path | None = None) -> Any:
    """Import ``module:Name`` and return it.

    Args:
        target: For example ``my_robot:Reach``.
        folder: Folder of the scenario; appended to the import path, so that it shadows nothing
            installed.

    Raises:
        ModuleNotFoundError: If the module is not there.
        AttributeError: If the module has no such name.
    """
    module_name, _, name = target.partition(":")
    append_path(folder)
    return getattr(importlib.import_module(module_name), name)


def append_path(folder: Path | None) -> None:
    """Append the scenario's folder to the import path, once."""
    if folder is not None and str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def algorithm(name: str) -> Algorithm:
    """Return an algorithm by name; of a user's own ``module:Class`` only its life is known."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    return Algorithm(name, False, _ANY, doors=frozenset({"lifecycle"}), output=None)
