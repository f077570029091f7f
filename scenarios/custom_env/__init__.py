"""An environment of the user's own beside its scenario."""
