"""Training of one cell: what it builds, writes down and shows."""
