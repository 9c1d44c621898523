"""Checkpoints: written by Orbax, verified when they are read."""
