"""Equations and their solvers."""
