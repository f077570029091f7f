"""Algorithms beside those of Stable-Baselines3 and its contrib package."""
