"""PettingZoo environments: teams and turn-based games."""
