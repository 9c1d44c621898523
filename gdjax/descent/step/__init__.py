"""One step of descent: the gradient of a loss at a batch, and the update by an optimizer."""
