"""Worlds of our own, in NumPy alone, that live for ever and can be saved at any step."""
