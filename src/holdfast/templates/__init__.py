"""Files that ``holdfast new`` writes; they work as they stand, under their own names."""
