"""What every environment goes through: loading, and the spaces of the stream."""
