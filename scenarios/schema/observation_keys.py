"""Entries of the Dict observations that learners are shown, and of what stands beside them."""

from __future__ import annotations

TASK_ID = "task_id"
"""The one-hot of the task, where the observation is no vector."""

OBSERVATION = "observation"
"""The agent's own view; in a joint observation, that of all agents: (agents, features)."""

STATE = "state"
"""The environment's global state, for what is used in training alone."""

PRESENT = "present"
"""Agents that act next, in a joint observation: (agents,)."""

MASKS = "action_masks"
"""Which actions may be taken: of a joint observation, (agents, actions); elsewhere no entry, but
the method of an environment that says so, one truth value for each action."""
