"""Small streams of a turn-based game."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from holdfast.scenarios.schema.scenario import Scenario

TTT = "classic/tictactoe_v3"


def games(
    folder: Path,
    *against: Any,
    name: str = "games",
    method: Any = "naive",
    measured: Any = None,
    seeds: Any = (0,),
    **rule: Any,
) -> Scenario:
    """Return two tasks of tic-tac-toe; ``rule`` is that of past selves."""
    opponents = {"against": list(against), **({"past": rule} if rule else {})}
    scenario = Scenario.model_validate(
        {
            "name": name,
            "tasks": [
                {
                    "name": task,
                    "env": TTT,
                    "steps": 64,
                    "opponents": opponents | ({"measured": measured} if measured else {}),
                }
                for task in ("first", "second")
            ],
            "agent": {
                "algorithm": "maskable_ppo",
                "n_steps": 16,
                "batch_size": 16,
                "n_epochs": 2,
                "learning_rate": 0.01,
                "policy_kwargs": {"net_arch": [16]},
            },
            "n_envs": 2,
            "methods": [method],
            "seeds": list(seeds),
            "evaluation": {"episodes": 4, "every": 32},
            "score": "success",
        }
    )
    scenario._folder = folder
    return scenario
