"""Order and policy: which task runs, when, and what a person may ask for."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("flows", "tasks", "ups_models")
"""Ours, and the names of their loggers."""
