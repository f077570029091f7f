"""Entries of a Dict observation that a team's learner is shown; the task id's is ``TASK_ID``."""

from __future__ import annotations

OBSERVATION = "observation"
"""What the agent sees itself; of a joint observation, of all agents: (agents, features)."""

STATE = "state"
"""The environment's global state, for what is used in training alone."""

PRESENT = "present"
"""Of a joint observation: which agents act next, (agents,)."""

MASKS = "action_masks"
"""Of a joint observation: which actions each agent may take, (agents, actions)."""
