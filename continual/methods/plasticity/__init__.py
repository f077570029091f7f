"""Plasticity: what keeps a network able to learn."""
