"""Run folders on disk: what is in them, read and written."""
