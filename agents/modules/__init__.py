"""Parts of networks: hidden units, fresh weights, measures of how able they still are to learn."""
