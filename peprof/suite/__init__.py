"""What to run: suites, their methods and their runs. Never imports torch."""
