"""Checks of a scenario: every mistake at once, each with its place."""
