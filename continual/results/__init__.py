"""Results: the run folder, the scores in it, and every number computed from them."""
