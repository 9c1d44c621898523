"""Wrappers: transforms that change when another transform runs, on which gradients, at which parameters."""
