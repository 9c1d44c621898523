"""The loop of a descent: many steps in one dispatch on the device, driven from the host."""
