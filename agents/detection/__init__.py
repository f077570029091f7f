"""Detection of task changes: signals of what is lived through, and tests of them."""
