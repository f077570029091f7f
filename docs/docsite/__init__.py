"""The documentation site: what stages its pages and what is generated for it; ``make docs``."""
