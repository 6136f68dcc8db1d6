"""Whose each byte of a step was: plain values that every room may hold, and how they read as text."""
