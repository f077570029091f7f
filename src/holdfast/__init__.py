"""Holdfast: continual reinforcement learning on a stream of tasks."""
