"""Which code this is."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def code_version() -> str:
    """The commit of the checkout that this code runs from, `+changes` where it was edited; else the package version."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return f"ups-pipeline {importlib.metadata.version('ups-pipeline')}"
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # an installed copy, perhaps inside somebody else's repository
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
