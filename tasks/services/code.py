"""Which code this is, and which code a rented machine gets."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ups_models.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]


VERSION = "UPS_CODE"
"""Names the variable by which a rented machine, which has no repository, knows the version of its code."""
GIT = r"^git:(https|ssh|file)://[A-Za-z0-9@:/._~+-]+@[0-9a-f]{7,40}$"
CLONE_WITHIN_S = 600.0


@dataclass(frozen=True)
class Code:
    """A folder with the project's code, and what it is called."""

    root: Path
    version: str


def code_version() -> str:
    """The commit of the checkout that this code runs from, `+changes` where it was edited; else the package version."""
    told = os.environ.get(VERSION)
    if told:
        return told
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return f"ups-pipeline {importlib.metadata.version('ups-pipeline')}"
    return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")


@contextmanager
def code_to_send(wanted: str | None) -> Iterator[Code]:
    """This checkout as it is, or the commit of `git:<url>@<commit>`, cloned here. Raises BadInput."""
    if wanted is None:
        yield Code(ROOT, code_version())
        return
    url, _, commit = wanted.removeprefix("git:").rpartition("@")
    with TemporaryDirectory() as scratch:
        root = Path(scratch) / "code"
        for command in (
            ["clone", "--quiet", "--no-checkout", "--", url, str(root)],
            ["-C", str(root), "checkout", "--quiet", "--detach", commit],
        ):
            done = _run_git(command, Path(scratch), CLONE_WITHIN_S)
            if done is None or done.returncode:
                said = done.stderr.strip().splitlines()[-1:] if done is not None else ["git did not end"]
                raise BadInput(f"--code {wanted}: cannot be fetched: {''.join(said)}; check address and commit")
        if not (root / "tasks" / "services" / "onstart.sh").is_file():
            raise BadInput(f"--code {wanted}: holds no ups-pipeline that rented machines can run; name another commit")
        yield Code(root, commit)


def _git(*arguments: str) -> str | None:
    if not (ROOT / ".git").exists():  # an installed copy, perhaps inside somebody else's repository
        return None
    done = _run_git(arguments, ROOT, within_s=10)
    return done.stdout.strip() if done is not None and not done.returncode else None


def _run_git(arguments: Sequence[str], folder: Path, within_s: float) -> subprocess.CompletedProcess[str] | None:
    """None where there is no git, or no end."""
    quiet = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}  # a repository that wants a password is an error, not a question
    try:
        return subprocess.run(
            ["git", *arguments], cwd=folder, env=quiet, capture_output=True, text=True, check=False, timeout=within_s
        )
    except (OSError, subprocess.SubprocessError):
        return None
