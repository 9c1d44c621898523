"""Checkpoints of a descent: written by Orbax, verified when they are read."""
