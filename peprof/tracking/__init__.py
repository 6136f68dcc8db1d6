"""Follows runs in TensorBoard and the like. Sees what records hold; knows nothing of how it is measured."""
