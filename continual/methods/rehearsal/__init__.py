"""Rehearsal: earlier observations are seen again."""
