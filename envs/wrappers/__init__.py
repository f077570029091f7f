"""Wrappers of one environment: changes, drift, pace, interleaving, the guard around them."""
