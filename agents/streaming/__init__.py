"""Learners that make one update from each step and keep nothing of it: Stream-X."""
