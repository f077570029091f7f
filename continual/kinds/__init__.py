"""Kinds of learner: one seam at which single agents, teams and supervised models differ."""
