"""Which code this is: the commit of the checkout, or the version of the package."""

import importlib.metadata
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tasks.services.run import environment

ROOT = Path(__file__).resolve().parents[3]


def code_version() -> str:
    """The commit of the checkout that this code runs from, `+changes` where it was edited; else the package version."""
    given = environment.get(environment.CODE)  # a rented machine has no repository
    if given:
        return given
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return f"ups-pipeline {importlib.metadata.version('ups-pipeline')}"
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


def run_git(arguments: Sequence[str], folder: Path, within_s: float) -> subprocess.CompletedProcess[str] | None:
    """Run git in a folder; None where there is no git, or no end."""
    quiet = environment.child(GIT_TERMINAL_PROMPT="0")  # a repository that wants a password is an error, not a question
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=quiet, capture_output=True, text=True, check=False, timeout=within_s
        )
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # an installed copy, perhaps inside somebody else's repository
        return None
    done = run_git(arguments, ROOT, within_s=10)
    return done.stdout.strip() if done is not None and not done.returncode else None
