"""The loop that takes many steps: compiled on the device, driven from the host."""
