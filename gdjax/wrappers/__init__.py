"""Transforms around others: when they run, on which gradients, at which parameters."""
