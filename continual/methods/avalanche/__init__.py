"""Plugins of Avalanche as methods of the supervised agent."""
