"""The cells of the golden record: small scenarios that together reach most of what Holdfast does.

Each takes about a second. A cell is a scenario with one method and one seed, written as YAML beside
``golden_worlds.py``. Budgets are as small as the methods' work between and within tasks allows.
"""

from __future__ import annotations

from typing import Any

Scenario = dict[str, Any]

CI = ("ppo-ewc-heads", "sac-packnet", "dqn-replay", "team-shared", "game-past", "digits-replay")
"""What tests/test_golden.py runs: each kind of agent, stream and method once."""

NEEDS = {
    "ppo-init": "ppo-si",
    "game-run": "game-past",
    "team-partners": "team-independent",
}
"""Cells that take up another cell's run folder, which is run before them in the same process."""

# -- streams ---------------------------------------------------------------------------------------


def tasks(env: str, steps: int, *different: dict[str, Any], **same: Any) -> list[dict[str, Any]]:
    """Return tasks ``a``, ``b``, ... of one environment, each with what it differs in."""
    names = "abcdef"
    return [
        {"name": names[i], "env": env, "steps": steps, **same, **more}
        for i, more in enumerate(different)
    ]


def limited(**changes: Any) -> dict[str, Any]:
    """Return changes to a task whose episodes end soon."""
    return {"changes": {"time_limit": 12, **changes}}


POLE = tasks("CartPole-v1", 96, limited(), limited(action_map=[1, 0]))
OPPOSITE = tasks("CartPole-v1", 144, limited(), limited(reward_scale=-1.0))
PENDULUM = tasks("Pendulum-v1", 60, limited(), limited(action_gain=-1.0))
WALK = "golden_worlds:Walk"
CROWD = tasks("golden_worlds:Crowd", 96, {}, {"kwargs": {"length": 6}})
TTT, SPREAD = "classic/tictactoe_v3", "mpe2.simple_spread_v3"
DIGITS = [
    {"name": f"d{i}", "benchmark": "split-digits", "experience": i, "steps": 12} for i in range(2)
]

# -- agents ----------------------------------------------------------------------------------------

SMALL = {"policy_kwargs": {"net_arch": [8, 8]}}
ON = {"n_steps": 24, "batch_size": 24, "n_epochs": 2, "learning_rate": 0.01, **SMALL}
OFF = {"learning_starts": 20, "buffer_size": 200, "batch_size": 8, "learning_rate": 0.01, **SMALL}
NOISY = {**OFF, "action_noise": {"normal": 0.1}}
VALUES = {**OFF, "target_update_interval": 16}
AGENTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("ppo", "maskable_ppo", "recurrent_ppo", "mappo"), ON),
    "a2c": {"n_steps": 12, **SMALL},
    "trpo": {"n_steps": 24, "batch_size": 24, **SMALL},
    **dict.fromkeys(("sac", "tqc", "crossq"), OFF),
    **dict.fromkeys(("td3", "ddpg"), NOISY),
    **dict.fromkeys(("dqn", "qrdqn", "vdn", "qmix"), VALUES),
    **dict.fromkeys(("stream_q", "stream_ac"), SMALL),
    "supervised": {"hidden": [8], "learning_rate": 0.1, "batch_size": 16},
}


def cell(algorithm: str, listed: list[dict[str, Any]], method: Any, **keys: Any) -> Scenario:
    """Return a scenario of one cell.

    Args:
        algorithm: Has the arguments in ``AGENTS``.
        listed: The tasks.
        method: As a scenario's ``methods:`` lists it.
        **keys: Other sections; ``agent`` and ``stream`` add to the defaults here.
    """
    agent = {"algorithm": algorithm, **AGENTS[algorithm], **keys.pop("agent", {})}
    stream = {"task_count": "known", **keys.pop("stream", {})}
    plan = {"evaluation": {"episodes": 2}} if algorithm != "supervised" else {}
    return {"tasks": listed, "stream": stream, "agent": agent, "methods": [method], **plan, **keys}


# -- methods ---------------------------------------------------------------------------------------

# What a method takes to do its work within so few steps.
FEW = {"samples": 48, "batch_size": 16}
METHODS: dict[str, dict[str, Any]] = {
    "naive": {},
    "isolated": {},
    "joint": {},
    "frozen": {},
    "l2": {"strength": 1.0},
    "ewc": {"strength": 100.0, "samples": 48},
    "mas": {"samples": 48},
    "si": {},
    "rwalk": {},
    "vcl": {"strength": 0.01},
    "l2-init": {},
    "parseval": {},
    "cloning": FEW,
    "distillation": {},
    "replay": {"samples": 48},
    "perfect-memory": {},
    "clear": {"samples": 96, "unroll": 6},
    "generative-replay": {**FEW, "updates": 12, "draws": 32, "hidden": 16, "latent": 4},
    "er-ace": FEW,
    "agem": FEW,
    "gem": FEW,
    "pcgrad": FEW,
    "packnet": {},
    "progressive": {},
    "componet": {},
    "cka-rl": {},
    "hat": {},
    "expandable": {"episodes": 2, "samples": 48},
    "progress-compress": {"updates": 8, "samples": 48, "batch_size": 16},
    "redo": {"tau": 0.5, "period": 6, "samples": 32},
    "shrink-perturb": {},
    "continual-backprop": {"replacement_rate": 0.05, "maturity": 4, "samples": 16},
    "weight-clipping": {"kappa": 1.0},
    "c-chain": {"warmup": 3, "batch_size": 8, "window": 4},
    "trac": {"scale": 0.1},
    "upgd": {"beta": 0.9, "sigma": 0.5},
    "reptile": {},
    "fire": {},
    "spectral": {},
    "cpr": {"replacement_rate": 0.5, "period": 5},
    "reset-distill": {**FEW, "observations": 64, "updates": 8},
    "fame": {**FEW, "updates": 8, "trial_share": 0.125},
}
WITHOUT_PPO = ("replay", "perfect-memory")
WITH_SAC = (
    *("naive", "isolated", "joint", "l2", "ewc", "mas", "si", "vcl", "cloning", "distillation"),
    *("replay", "perfect-memory", "er-ace", "agem", "packnet", "progressive", "componet"),
    *("cka-rl", "hat"),
    *("expandable", "progress-compress", "redo", "shrink-perturb", "continual-backprop"),
    *("weight-clipping", "reptile", "fire", "trac", "upgd", "c-chain", "spectral", "cpr"),
    *("reset-distill", "fame"),
)
PROJECTIONS = ("agem", "gem", "pcgrad")
"""Methods that do nothing while tasks do not conflict."""

SCORE = {"score": {"random": 0.0, "reference": 12.0}}


def of(name: str, **arguments: Any) -> Any:
    """Return a method with its arguments here, as a scenario lists it."""
    return {name: {**METHODS[name], **arguments}}


def every_method() -> dict[str, Scenario]:
    """Return the methods on PPO with discrete actions, and on SAC with box actions."""
    ppo = {"n_envs": 2, **SCORE}
    hidden = {"stream": {"task_id": "hidden"}}
    return {
        **{f"ppo-{m}": cell("ppo", POLE, of(m), **ppo) for m in METHODS if m not in WITHOUT_PPO},
        **{f"ppo-{m}": cell("ppo", OPPOSITE, of(m), **hidden) for m in ("naive", *PROJECTIONS)},
        **{f"sac-{m}": cell("sac", PENDULUM, of(m), **SCORE) for m in WITH_SAC},
    }


# -- everything else -------------------------------------------------------------------------------


def walks(*different: dict[str, Any], steps: int = 96) -> list[dict[str, Any]]:
    """Return tasks of the walk that differ in its arguments."""
    return tasks(WALK, steps, *({"kwargs": kwargs} for kwargs in different))


def games(*against: Any, **past: Any) -> Scenario:
    """Return two tasks of tic-tac-toe."""
    rule = {"past": past} if past else {}
    opponents = {"against": list(against), "measured": ["random", {"minimax": 1}], **rule}
    listed = tasks(TTT, 72, {}, {}, opponents=opponents)
    agent = {"algorithm": "maskable_ppo", **ON, "n_steps": 12}
    plan = {"evaluation": {"episodes": 4, "every": 36}, "score": "success"}
    return {"tasks": listed, "agent": agent, "n_envs": 2, "methods": [of("cloning")], **plan}


SLOW = {"cost": {"limit": 2, "terms": [{"observation": 2, "above": 1.0, "below": -1.0}]}}

OTHER: dict[str, Scenario] = {
    # Other algorithms, and compositions.
    "a2c-clear": cell("a2c", POLE, of("clear"), n_envs=2),
    "dqn-replay": cell("dqn", POLE, of("replay")),
    "qrdqn-cloning": cell("qrdqn", POLE, of("cloning")),
    "td3-mas": cell("td3", PENDULUM, of("mas")),
    "ddpg-l2": cell("ddpg", PENDULUM, of("l2")),
    "tqc-componet": cell("tqc", PENDULUM, of("componet")),
    "crossq-packnet": cell("crossq", PENDULUM, of("packnet")),
    "trpo-frozen": cell("trpo", POLE, of("frozen"), n_envs=2),
    "recurrent-si": cell("recurrent_ppo", POLE, of("si"), n_envs=2),
    "maskable-er-ace": cell("maskable_ppo", walks({}, {"wind": 1.0}), of("er-ace")),
    "stream-q": cell("stream_q", POLE, "naive"),
    "stream-ac": cell("stream_ac", PENDULUM, "isolated"),
    "ppo-ewc-and-cloning": cell("ppo", POLE, [of("ewc"), of("cloning")], n_envs=2),
    "sac-replay-and-mas": cell("sac", PENDULUM, [of("replay"), of("mas")]),
    # Limits of cost.
    "ppo-lagrangian": cell(
        *("ppo", [{**task, **SLOW} for task in PENDULUM], "naive"),
        agent={"constraint": {"lagrangian": {}}},
    ),
    "sac-controlled": cell(
        *("sac", [{**task, **SLOW} for task in PENDULUM], of("cloning")),
        agent={"constraint": {"pid": {}}},
    ),
    # High replay ratios.
    "sac-droq-resets": cell(
        *("sac", PENDULUM, of("ewc")),
        agent={
            "gradient_steps": 4,
            "policy_kwargs": {"net_arch": [8], "layer_norm": "critics", "dropout_rate": 0.01},
            "resets": {"every": 60},
        },
    ),
    # Spaces of actions and observations.
    "ppo-box-mas": cell("ppo", PENDULUM, of("mas"), n_envs=2),
    "ppo-multi-discrete": cell("ppo", walks({"actions": "two"}, {"actions": "two"}), of("ewc")),
    "ppo-multi-binary": cell("ppo", walks({"actions": "buttons"}), "naive"),
    "ppo-dict": cell("ppo", walks({"seen": "dict"}, {"seen": "dict", "wind": 1.0}), of("cloning")),
    "ppo-picture": cell("ppo", walks({"seen": "picture"}, {"seen": "picture"}, steps=24), "naive"),
    "ppo-padded": cell(
        "ppo",
        [*tasks("CartPole-v1", 96, limited()), *tasks("Acrobot-v1", 96, limited(), name="c")],
        of("packnet"),
        spaces={"observation": "pad", "action": "pad"},
    ),
    # What the learner is told, and the order of tasks.
    "ppo-ewc-heads": cell("ppo", POLE, of("ewc"), n_envs=2, stream={"task_id": "heads"}),
    "sac-heads": cell("sac", PENDULUM, of("agem"), stream={"task_id": "heads"}),
    "ppo-hidden": cell(
        "ppo", POLE, of("l2-init"), stream={"task_id": "hidden", "boundaries": "hidden"}
    ),
    "ppo-shuffled": cell("ppo", POLE, of("si"), stream={"order": "shuffled", "repeat": 2}),
    "ppo-drift-and-samples": cell(
        "ppo",
        [
            *tasks("CartPole-v1", 96, {"sample": {"gravity": "uniform(5, 15)"}}, **limited()),
            {
                "name": "moving",
                "env": WALK,
                "steps": 96,
                "drift": {"wind": {"sine": [-1.0, 1.0], "period": 40, "per": "step"}},
            },
        ],
        of("ewc", kind="online"),
        spaces={"observation": "pad", "action": "pad"},
        stream={"task_id": "hidden", "order": ["a", "moving", "a"]},
    ),
    # What is changed, carried, scaled, measured.
    "ppo-changes": cell(
        "ppo",
        tasks(
            "CartPole-v1",
            96,
            limited(action_delay=1, observation_noise=0.1, reward_scale=2.0),
            limited(observation_mask=[1], observation_permutation=[3, 2, 1, 0]),
            {**limited(set={"gravity": 12.0}), "randomize": {"length": "uniform(0.3, 1)"}},
        ),
        of("mas"),
    ),
    "ppo-normalize": cell(
        "ppo",
        POLE,
        of("cloning"),
        agent={"normalize": {"observations": "running", "rewards": "per_task"}},
    ),
    "sac-normalize": cell(
        "sac", PENDULUM, "naive", agent={"normalize": {"observations": "first_task"}}
    ),
    "sac-carry": cell("sac", PENDULUM, of("ewc"), carry={"optimizer": True, "replay_buffer": True}),
    "ppo-fresh": cell("ppo", POLE, of("cloning"), carry={"weights": False}),
    "ppo-init": cell("ppo", POLE, "naive", agent={"init": "runs/ppo-si/si/seed-0"}),
    "ppo-options": cell(
        "ppo",
        POLE,
        "naive",
        agent={
            "learning_rate": {"linear": [0.01, 0.001]},
            "policy_kwargs": {
                "net_arch": [8, 8],
                "activation": "crelu",
                "layer_norm": "first",
                "weight_decay": 0.01,
            },
        },
    ),
    "ppo-frames": cell("ppo", tasks(WALK, 96, {}, {}, wrappers=[{"frame_stack": 2}]), of("si")),
    "ppo-dense": cell(
        "ppo",
        POLE,
        of("ewc"),
        evaluation={"every": 12, "episodes": 2, "tasks": "seen", "deterministic": False},
    ),
    "ppo-pool": cell("ppo", POLE, of("ewc"), n_envs=4, pool={"workers": 2}),
    # Teams and games.
    "team-shared": cell("ppo", CROWD, of("ewc"), agent={"policies": "shared"}, n_envs=2),
    "team-independent": cell(
        "ppo",
        CROWD,
        of("cloning"),
        agent={"policies": "independent", "normalize": {"observations": "running"}},
    ),
    "team-groups": cell(
        "dqn", CROWD, of("packnet"), agent={"policies": {"one": ["first"], "two": ["second"]}}
    ),
    "team-mappo": cell("mappo", CROWD, of("progressive"), agent={"policies": "shared"}),
    "team-vdn": cell("vdn", CROWD, of("cloning"), agent={"policies": "shared"}),
    "team-qmix": cell("qmix", CROWD, of("ewc"), agent={"policies": "shared"}),
    "team-spread": cell(
        "ppo",
        tasks(SPREAD, 48, *({"kwargs": {"N": n, "max_cycles": 8}} for n in (1, 2))),
        "naive",
        agent={"policies": "shared"},
        spaces={"observation": "pad"},
    ),
    "team-partners": cell(
        "ppo",
        [
            {
                **CROWD[0],
                "partners": {"second": {"run": "runs/team-independent/cloning/seed-0"}},
            }
        ],
        "naive",
        agent={"policies": "independent"},
    ),
    "game-past": games("past", "random", sample="prioritized", every=24, most=3),
    "game-run": games({"run": "runs/game-past/cloning/seed-0"}, {"minimax": 1}),
    # Data streams.
    **{
        f"digits-{name}": cell("supervised", DIGITS, method, stream={"task_id": "hidden"})
        for name, method in {
            "isolated": "isolated",
            "ewc": {"avalanche-ewc": {"ewc_lambda": 1.0}},
            "si": {"avalanche-si": {"si_lambda": 100.0}},
            "replay": {"avalanche-replay": {"mem_size": 40}},
            "agem": {"avalanche-agem": {"patterns_per_experience": 20, "sample_size": 16}},
        }.items()
    },
}


def cells() -> dict[str, Scenario]:
    """Return every cell's scenario, by the cell's name."""
    return {name: {"name": name, **made} for name, made in {**every_method(), **OTHER}.items()}
