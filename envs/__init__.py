"""Environments: made from an id or a class, changed into tasks, aligned, checked."""
