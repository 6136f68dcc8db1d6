"""Makes a run trainable: backbone, data, optimizer, the loop."""
