"""Transforms over a named axis: means of gradients, local steps, sharded updates; and copies for each device."""
