"""Scenario files as text: YAML with places, and values that override it."""
