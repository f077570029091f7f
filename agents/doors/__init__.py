"""Doors: how a method reaches an agent."""
