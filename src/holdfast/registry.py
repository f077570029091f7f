"""Names that scenarios may use: algorithms, methods, and ``module:Name`` for the user's own.

Tables of text, so that ``validate`` and ``list`` need neither torch nor Stable-Baselines3.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from holdfast.offers import meant

Output = Literal["distribution", "deterministic", "values"]

_DISCRETE = frozenset({"Discrete"})
_BOX = frozenset({"Box"})
_ANY = frozenset({"Box", "Discrete", "MultiDiscrete", "MultiBinary"})
_COUNTABLE = frozenset({"Discrete", "MultiDiscrete", "MultiBinary"})
_LIFECYCLE = frozenset({"lifecycle"})
_ALL_DOORS = _LIFECYCLE | {"gradients", "memory", "networks"}


@dataclass(frozen=True)
class Algorithm:
    """An algorithm: the action spaces that it takes, and the doors by which methods reach it.

    Attributes:
        target: ``module:Class``, as published.
        on_policy: Whether it learns from rollouts (True), from a replay buffer (False), or from
            data sets (None).
        actions: Names of the Gymnasium action spaces it takes.
        doors: By which doors methods reach it; ``plugins`` is a door of the supervised agent alone.
            The output door is open where ``output`` is not None.
        output: What "the policy's output" is: a ``distribution`` over actions (categorical, or
            Gaussian before squashing), a ``deterministic`` action (as a unit Gaussian), action
            ``values`` (as a unit Gaussian), or None where one observation does not determine it.
        shown: What it is shown of a team beside each agent's own observation: ``state``, the
            environment's global one, and ``joint``, all agents of its group as one row.
        is_streaming: Whether it learns from each step at once, by eligibility traces: its rollout
            is one step, it has one environment, and normalises what it is shown by itself.
    """

    target: str
    on_policy: bool | None
    actions: frozenset[str]
    doors: frozenset[str] = _ALL_DOORS
    output: Output | None = "distribution"
    shown: frozenset[str] = frozenset()
    is_streaming: bool = False


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
    "crossq": Algorithm("sb3_contrib.crossq.crossq:CrossQ", False, _BOX, _ALL_DOORS - {"networks"}),
    # Conjugate gradients and a line search: a hook on gradients would fire in every Hessian-vector
    # product.
    "trpo": Algorithm("sb3_contrib.trpo.trpo:TRPO", True, _ANY, _LIFECYCLE),
    # The recurrent state, not the observation alone, determines the output. Its buffer keeps
    # MultiBinary actions as int8, which torch's Bernoulli refuses (sb3-contrib 2.9).
    "recurrent_ppo": Algorithm(
        "sb3_contrib.ppo_recurrent.ppo_recurrent:RecurrentPPO",
        True,
        _ANY - {"MultiBinary"},
        _LIFECYCLE | {"gradients"},
        output=None,
    ),
    "maskable_ppo": Algorithm("sb3_contrib.ppo_mask.ppo_mask:MaskablePPO", True, _COUNTABLE),
    # Their traces mix the gradients of many steps, and nothing is kept of a step: there is neither
    # a gradient of one loss to change, nor a batch to mix with.
    "stream_q": Algorithm(
        "holdfast.agents.streaming.stream_q:StreamQ",
        *(True, _DISCRETE, _LIFECYCLE, "values"),
        is_streaming=True,
    ),
    "stream_ac": Algorithm(
        "holdfast.agents.streaming.stream_ac:StreamAC",
        *(True, _BOX | _DISCRETE, _LIFECYCLE),
        is_streaming=True,
    ),
}

_MIXING = "holdfast.agents.algorithms.mixing"
_STATE, _JOINT = frozenset({"state"}), frozenset({"joint"})

TEAM_ALGORITHMS: dict[str, Algorithm] = {
    "mappo": Algorithm("holdfast.agents.algorithms.mappo:MAPPO", True, _ANY, shown=_STATE),
    "vdn": Algorithm(f"{_MIXING}:VDN", False, _DISCRETE, output="values", shown=_JOINT),
    "qmix": Algorithm(f"{_MIXING}:QMIX", False, _DISCRETE, output="values", shown=_JOINT | _STATE),
}
"""Those that train a team centrally, and so need ``agent.policies``."""

SUPERVISED = "supervised"
"""The agent that learns data sets, with Avalanche's own training loop and plugins."""

AGENTS: dict[str, Algorithm] = {
    **ALGORITHMS,
    **TEAM_ALGORITHMS,
    SUPERVISED: Algorithm(
        "holdfast.agents.supervised.classifier:Classifier",
        None,
        frozenset(),
        _LIFECYCLE | {"plugins"},
        output=None,
    ),
}

_METHODS = "holdfast.continual.methods"
METHODS: dict[str, str] = {
    "naive": f"{_METHODS}.references.naive:Naive",
    "isolated": f"{_METHODS}.references.isolated:Isolated",
    "joint": f"{_METHODS}.references.joint:Joint",
    "frozen": f"{_METHODS}.references.frozen:Frozen",
    "l2": f"{_METHODS}.regularization.l2:L2",
    "ewc": f"{_METHODS}.regularization.ewc:EWC",
    "mas": f"{_METHODS}.regularization.mas:MAS",
    "si": f"{_METHODS}.regularization.si:SI",
    "rwalk": f"{_METHODS}.regularization.rwalk:RWalk",
    "vcl": f"{_METHODS}.regularization.vcl:VCL",
    "l2-init": f"{_METHODS}.plasticity.l2_init:L2Init",
    "parseval": f"{_METHODS}.plasticity.parseval:Parseval",
    "cloning": f"{_METHODS}.rehearsal.cloning:Cloning",
    "distillation": f"{_METHODS}.regularization.distillation:Distillation",
    "replay": f"{_METHODS}.rehearsal.replay:Replay",
    "perfect-memory": f"{_METHODS}.rehearsal.perfect_memory:PerfectMemory",
    "clear": f"{_METHODS}.rehearsal.clear:Clear",
    "generative-replay": f"{_METHODS}.rehearsal.generative_replay:GenerativeReplay",
    "er-ace": f"{_METHODS}.rehearsal.er_ace:ERACE",
    "agem": f"{_METHODS}.rehearsal.agem:AGEM",
    "gem": f"{_METHODS}.rehearsal.gem:GEM",
    "pcgrad": f"{_METHODS}.rehearsal.pcgrad:PCGrad",
    "packnet": f"{_METHODS}.architecture.packnet:PackNet",
    "progressive": f"{_METHODS}.architecture.progressive:Progressive",
    "componet": f"{_METHODS}.architecture.componet:CompoNet",
    "cka-rl": f"{_METHODS}.architecture.cka_rl:CkaRl",
    "hat": f"{_METHODS}.architecture.hat:HAT",
    "expandable": f"{_METHODS}.architecture.expandable:Expandable",
    "progress-compress": f"{_METHODS}.architecture.progress_compress:ProgressCompress",
    "redo": f"{_METHODS}.plasticity.redo:ReDo",
    "shrink-perturb": f"{_METHODS}.plasticity.shrink_perturb:ShrinkPerturb",
    "continual-backprop": f"{_METHODS}.plasticity.continual_backprop:ContinualBackprop",
    "weight-clipping": f"{_METHODS}.plasticity.weight_clipping:WeightClipping",
    "c-chain": f"{_METHODS}.plasticity.c_chain:CChain",
    "trac": f"{_METHODS}.plasticity.trac:TRAC",
    "upgd": f"{_METHODS}.plasticity.upgd:UPGD",
    "reptile": f"{_METHODS}.regularization.reptile:Reptile",
    "fire": f"{_METHODS}.plasticity.fire:FIRE",
    "spectral": f"{_METHODS}.plasticity.spectral:Spectral",
    "cpr": f"{_METHODS}.plasticity.cpr:CPR",
    "reset-distill": f"{_METHODS}.rehearsal.reset_distill:ResetDistill",
    "fame": f"{_METHODS}.rehearsal.fame:FAME",
}


AT_ONCE = ("joint",)
"""Methods that learn all tasks of a stream at once, as one task: nothing begins again in it."""

ON_HOST: dict[str, str] = {
    "gem": "its quadratic program is solved on the host, by the package quadprog",
    "redo": "which layers have dormant units decides how many fresh weights are drawn",
    "continual-backprop": "how many units are due decides how many are replaced and drawn",
}
"""Methods with a gradient function that is not pure, each with the reason.

The functions of all others read no tensor on the host, so that an engine may trace them."""


COMPILED = frozenset({"ppo", "a2c", "maskable_ppo", "dqn", "qrdqn", "sac", "tqc", "td3", "ddpg"})
"""Algorithms that ``engine: compiled`` knows."""

WITH_COST_CRITIC = ("ppo", "a2c", "maskable_ppo")
"""Algorithms that a critic of costs can stand beside; see ``constraint:``."""

NOT_COMPILED: dict[str, str] = ON_HOST | {
    "expandable": "which of its modules acts is decided while they learn",
}
"""Methods that ``engine: compiled`` cannot take, each with the reason."""


@dataclass(frozen=True)
class Plugin:
    """A plugin of Avalanche, as a method of the supervised agent.

    Attributes:
        target: ``module:Class``.
        convention: What its strength multiplies, in one line.
        memory: What it keeps, in one short phrase.
        extra: The extra work that it does, in one short phrase; empty for none.
        limits: Range of each numeric argument.
        objects: Arguments that take a Python object, which no scenario can give.
        claims: What at most one method of a composition may have.
    """

    target: str
    convention: str = ""
    memory: str = ""
    extra: str = ""
    limits: Mapping[str, tuple[float, float | None]] = field(default_factory=dict)
    objects: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()


_AVALANCHE = "avalanche.training.plugins"
_STRENGTH: tuple[float, None] = (0, None)
_COUNT: tuple[float, None] = (1, None)
_WEIGHTS = "2 numbers per weight"

PLUGINS: dict[str, Plugin] = {
    "avalanche-ewc": Plugin(
        f"{_AVALANCHE}.ewc:EWCPlugin",
        "ewc_lambda multiplies sum F (w - w*)^2 over earlier experiences, without 1/2; F is the "
        "mean over minibatches of the squared gradient of the minibatch's mean loss, true labels",
        memory=f"{_WEIGHTS} and experience; online: {_WEIGHTS}",
        extra="a pass over the experience's data",
        limits={"ewc_lambda": _STRENGTH, "decay_factor": (0, 1)},
    ),
    "avalanche-si": Plugin(
        f"{_METHODS}.avalanche.synaptic_intelligence:SynapticIntelligence",
        "si_lambda multiplies 1/2 sum omega (w - w*)^2; omega is summed over experiences and "
        "clipped at 0.001",
        memory="7 numbers per weight",
        limits={"si_lambda": _STRENGTH, "eps": _STRENGTH},
        objects=("device",),
    ),
    "avalanche-mas": Plugin(
        f"{_AVALANCHE}.mas:MASPlugin",
        "lambda_reg multiplies sum omega (w - w*)^2, without 1/2; omega is the mean over "
        "minibatches of |gradient of the mean squared norm of the output|, averaged by alpha",
        memory=_WEIGHTS,
        extra="a pass over the experience's data",
        limits={"lambda_reg": _STRENGTH, "alpha": (0, 1)},
        objects=("verbose",),
    ),
    "avalanche-rwalk": Plugin(
        f"{_AVALANCHE}.rwalk:RWalkPlugin",
        "ewc_lambda multiplies sum (F / max F + s / max s) (w - w*)^2, without 1/2",
        memory="10 numbers per weight",
        extra="a second gradient at each update",
        limits={"ewc_lambda": _STRENGTH, "ewc_alpha": (0, 1), "delta_t": _COUNT},
    ),
    "avalanche-lwf": Plugin(
        f"{_AVALANCHE}.lwf:LwFPlugin",
        "alpha multiplies KL(old || new) of the classes seen before, both at the temperature, on "
        "the new inputs; not multiplied by the squared temperature",
        memory="a copy of the network",
        extra="a forward pass of the old network at each update",
        limits={"temperature": (0, None)},
    ),
    "avalanche-replay": Plugin(
        f"{_AVALANCHE}.replay:ReplayPlugin",
        "mem_size samples in all, shared equally by the experiences so far",
        memory="mem_size samples",
        extra="batch_size_mem stored samples beside each minibatch",
        limits={"mem_size": _COUNT, "batch_size": _COUNT, "batch_size_mem": _COUNT},
        objects=("storage_policy",),
        claims=("batches",),
    ),
    "avalanche-gem": Plugin(
        f"{_AVALANCHE}.gem:GEMPlugin",
        "memory_strength is the margin of the constraints of the quadratic program",
        memory="patterns_per_experience samples per experience",
        extra="a gradient for each earlier experience at each update",
        limits={"patterns_per_experience": _COUNT, "memory_strength": _STRENGTH},
        claims=("projection",),
    ),
    "avalanche-agem": Plugin(
        f"{_AVALANCHE}.agem:AGEMPlugin",
        memory="patterns_per_experience samples per experience",
        extra="a second gradient at each update",
        limits={"patterns_per_experience": _COUNT, "sample_size": _COUNT},
        claims=("projection",),
    ),
    "avalanche-gdumb": Plugin(
        f"{_AVALANCHE}.gdumb:GDumbPlugin",
        "mem_size samples in all, shared equally by the classes so far",
        memory="mem_size samples",
        limits={"mem_size": _COUNT},
        claims=("batches",),
    ),
}

_CLASSIC = "avalanche.benchmarks.classic"

BENCHMARKS: dict[str, str] = {
    "split-digits": "holdfast.envs.datasets.digits:split_digits",
    "permuted-digits": "holdfast.envs.datasets.digits:permuted_digits",
    "split-mnist": f"{_CLASSIC}.cmnist:SplitMNIST",
    "permuted-mnist": f"{_CLASSIC}.cmnist:PermutedMNIST",
    "rotated-mnist": f"{_CLASSIC}.cmnist:RotatedMNIST",
    "split-fashion-mnist": f"{_CLASSIC}.cfashion_mnist:SplitFMNIST",
    "split-cifar10": f"{_CLASSIC}.ccifar10:SplitCIFAR10",
    "split-cifar100": f"{_CLASSIC}.ccifar100:SplitCIFAR100",
    "split-tiny-imagenet": f"{_CLASSIC}.ctiny_imagenet:SplitTinyImageNet",
    "split-omniglot": f"{_CLASSIC}.comniglot:SplitOmniglot",
    "core50": f"{_CLASSIC}.core50:CORe50",
}
"""Supervised benchmarks: functions that return an Avalanche scenario. The first two are in
scikit-learn's package; the others are downloaded by Avalanche when they are first used."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None where none is near.

    >>> closest("lerning_rate", ["gamma", "learning_rate"])
    'learning_rate'
    """
    by_fold = {candidate.casefold(): candidate for candidate in known}
    found = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[found[0]] if found else None


def suggestion(
    name: str, known: Iterable[str], form: str = "did you mean '{}'?", otherwise: str = ""
) -> str:
    """Return what to say of the nearest known name, or another text where none is near.

    >>> suggestion("lerning_rate", ["gamma", "learning_rate"])
    "did you mean 'learning_rate'?"
    """
    near = closest(name, known)
    return form.format(near) if near else otherwise


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
    if name in AGENTS:
        return AGENTS[name]
    return Algorithm(meant("agents", name), False, _ANY, _LIFECYCLE, output=None)


def method_target(name: str) -> str:
    """Return ``module:Class`` of a method by name, of Avalanche's plugins too."""
    if name in PLUGINS:
        return PLUGINS[name].target
    return METHODS.get(name) or meant("methods", name)
