"""The memory of a training step, told without the device."""
