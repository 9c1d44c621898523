"""One algorithm, one file: its state, its transform `scale_by_*`, and the named optimizers made of it."""
