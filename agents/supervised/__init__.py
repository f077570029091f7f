"""The supervised agent: Avalanche trains it."""
