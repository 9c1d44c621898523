"""Data of a descent: cut into batches, shuffled, read ahead, and placed on devices."""
