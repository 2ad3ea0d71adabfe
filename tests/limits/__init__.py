"""The volumes at their limits: see `python -m tests.limits --help`."""
