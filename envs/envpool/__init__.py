"""Environments of EnvPool."""
