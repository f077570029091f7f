"""Parts of an agent as users write them."""
