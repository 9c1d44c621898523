"""Eight devices on one processor, as for the other tests."""
