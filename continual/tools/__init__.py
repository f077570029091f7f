"""Tools for finished runs: measure again, film, export, let them meet."""
