"""A command of ours as a user types it: a process in a directory of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]
CANARY_KEY = "canary0key0that0nobody0must0ever0find00f"
UNTRACKED = {"WANDB_MODE": "disabled"}
"""Whatever key the machine has: a test talks to loopback alone."""


def command(*start: str, **environment: str) -> Cli:
    """`python START ARGUMENTS` in a directory that the caller names, with this environment on top."""

    def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *start, *arguments],
            cwd=cwd,
            env={**os.environ, **UNTRACKED, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run
