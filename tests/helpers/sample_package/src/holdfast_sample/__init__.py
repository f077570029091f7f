"""A package that offers names to scenarios of Holdfast."""
