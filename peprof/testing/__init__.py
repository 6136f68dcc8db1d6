"""A plugin for pytest: a limit on a test's memory, and steps measured where tests are.

Loaded by each pytest that runs where peprof is installed, so nothing here imports torch before it is used.
"""
