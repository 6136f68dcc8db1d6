"""Measures any training step; knows nothing of suites, tasks or methods."""
