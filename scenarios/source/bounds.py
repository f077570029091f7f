"""Bounds of scenarios: how much a file may hold, and how much it may mean.

Everything that expands (aliases, merges, repetitions, sweeps) is counted against them before it is
expanded. ``docs/streams.md`` lists them for users.
"""

from __future__ import annotations

FILE_BYTES = 256 * 1024
"""Size of a scenario file, or of a file of overrides."""

RESOLVED_BYTES = 4 * 1024 * 1024
"""Size of the ``scenario.yaml`` of a run folder: defaults and sampled visits are written out."""

DEPTH = 32
"""Levels of nesting, those that aliases and merges add included."""

VALUES = 20_000
"""Values of a scenario, its overrides included, where aliases and merges are expanded."""

RESOLVED_VALUES = 100_000
"""Values of a resolved scenario."""

CHARACTERS = 1_000_000
"""Characters of all texts of a scenario, where aliases are expanded."""

DIGITS = 300
"""Digits of a whole number; what is longer is no floating-point number any more."""

OVERRIDES = 1_000
"""Keys that overrides may set."""

PATH_CHARACTERS = 1_000
"""Length of the path of a key."""

PROBLEMS = 100
"""Mistakes that are told at once."""

TASKS = 1_000
"""Tasks that a scenario lists."""

STAGES = 10_000
"""Stages of a stream: tasks, as often as they come."""

SAMPLED = 1_000
"""Stages of a stream with sampled tasks: each is written out as a task of its own."""

COLUMNS = 100
"""Tasks of a method whose networks are fed by those of all tasks before."""

STEPS = 10**12
"""Environment steps of a task or of a stream."""

N_ENVS = 4_096
"""Environments stepped side by side."""

EPISODES = 100_000
"""Evaluation episodes of a task at one point."""

METHODS = 200
"""Methods that are compared."""

EPISODE_STEPS = 10_000
"""Steps after which an evaluation episode is cut, where nothing says how long it may last."""

WINDOW = 1_000_000
"""Newest rewards of an endless stream that are kept for its reward rate."""

SEEDS = 1_000
"""Seeds."""

SWEPT_VALUES = 1_000
"""Values of a swept key."""

POINTS = 1_000
"""Points of a sweep."""

CELLS = 10_000
"""Cells of a scenario: points of the sweep x methods x seeds."""

MINIMAX = 20
"""Moves that an opponent looks ahead."""

PAST_SELVES = 1_000
"""Past selves of a pool."""

TRIALS = 10_000
"""Trials of a search."""

UNITS = 65_536
"""Units of a hidden layer."""

FRAMES = 1_000
"""Frames that are stacked."""

LAYERS = 64
"""Hidden layers of a network."""
