"""The space guard: clients are told "no space" before the volumes have none."""
