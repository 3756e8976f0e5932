"""Evaluations and their metrics."""
