"""Transforms made of transforms: chains, labels by path, masks; and metrics read from them."""
