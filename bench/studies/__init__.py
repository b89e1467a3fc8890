"""Studies for this repository: run by nox, not in the wheel."""
