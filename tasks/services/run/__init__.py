"""The run directory: paths, lock, status, history."""
