"""Stable-Baselines3 as published, as a continual learner."""
