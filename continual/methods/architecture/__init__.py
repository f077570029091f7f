"""Architecture: masks, columns and modules that grow."""
