"""What ``holdfast new`` writes, as files that work as they stand under their own names."""
