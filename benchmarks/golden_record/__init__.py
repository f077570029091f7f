"""Parts of the golden record: its cells, and one side of a comparison."""
