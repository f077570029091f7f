"""The compiled engine: updates of Stable-Baselines3's networks as functions of arrays."""
