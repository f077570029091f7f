"""Jobs: cells in a queue, side by side, on a cluster, in a search for values."""
