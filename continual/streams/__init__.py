"""Streams: the experiences that carry tasks, and how an agent is measured on them."""
