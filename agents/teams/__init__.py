"""Many agents: a learner for each group."""
