"""Runs suites: each run in a fresh process, and its record written whatever happens to it."""
