"""Whole sets of checkpoints, and their upload."""
