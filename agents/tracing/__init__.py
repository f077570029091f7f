"""Torch functions as functions of arrays: traced once, run on NumPy or JAX."""
