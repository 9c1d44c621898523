"""One step of descent: the gradient of a loss, and the update that it makes."""
