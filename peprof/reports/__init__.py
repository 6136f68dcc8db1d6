"""Shows what was measured. Computes no measurement, never imports torch."""
