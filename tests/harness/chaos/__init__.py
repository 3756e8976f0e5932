"""Kills, faults and their checks."""
