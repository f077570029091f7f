"""Agents: Stable-Baselines3 algorithms with the doors by which methods reach them."""
