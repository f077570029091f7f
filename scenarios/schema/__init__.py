"""The models of a scenario: one for each of its sections."""
