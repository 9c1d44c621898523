"""Transforms over a named axis: means, local steps and sharded updates."""
