"""A module that cannot be imported."""

raise RuntimeError("the sample's loud module was imported")


class World:
    """Never there."""
