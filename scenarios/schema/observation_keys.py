"""Entries of the Dict observations that learners are shown, and of what stands beside them."""

from __future__ import annotations

TASK_ID = "task_id"
"""The one-hot of the task, where the observation is no vector."""

OBSERVATION = "observation"
"""What the agent sees itself; of a joint observation, of all agents: (agents, features)."""

STATE = "state"
"""The environment's global state, for what is used in training alone."""

PRESENT = "present"
"""Of a joint observation: which agents act next, (agents,)."""

MASKS = "action_masks"
"""Which actions may be taken: of a joint observation, (agents, actions); elsewhere no entry, but
the method of an environment that says so, one truth value for each action."""
