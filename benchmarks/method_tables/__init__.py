"""The published tables of methods: what each shows, the cells behind it, and how both are made."""
