"""Loading of environments by name, and the spaces of the stream that they are fitted to."""
