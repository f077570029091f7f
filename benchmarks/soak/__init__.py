"""The soak suite: deaths, damage and nonsense in large numbers."""
