"""Transforms over a named axis: what the members of it say to each other."""
