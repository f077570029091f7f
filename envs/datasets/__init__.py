"""Data sets of supervised scenarios."""
