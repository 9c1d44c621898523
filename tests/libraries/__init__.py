"""Run what libraries expect of an optimizer with gdjax instead of Optax."""
