"""The data files of a run."""
