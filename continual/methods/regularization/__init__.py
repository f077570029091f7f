"""Regularization: penalties that hold weights or outputs."""
