"""Environments in other processes and under other interpreters."""
