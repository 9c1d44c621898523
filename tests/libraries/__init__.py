"""What libraries expect of an optimizer, run with gdjax in the place of Optax."""
