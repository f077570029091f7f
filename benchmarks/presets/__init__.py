"""Presets of agents, written from where they are published."""
