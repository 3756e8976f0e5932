"""Where things lie in a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ups_models.errors import BadInput
from ups_models.files import previous_of, remove
from ups_models.own_code import KEPT

STATUS, HISTORY, REPORT, CHAIN_RUNS = "stage_status.json", "metrics.jsonl", "report.html", "attempts.jsonl"
CONFIG, LOCK, CODE = "config.yaml", ".owner", KEPT
MANIFEST, JOURNAL, LAUNCH_LOG = "manifest.json", "rented.jsonl", "launch.log"
"""Names of the files of a run, of a set of checkpoints, and of a launch."""


@dataclass(frozen=True)
class RunDir:
    """The paths of one run."""

    root: Path
    checkpoints: Path

    @classmethod
    def of(cls, root: Path, checkpoint_dir: Path) -> RunDir:
        """The run in `root`; `checkpoint_dir` is relative to it, or absolute."""
        return cls(root, root / checkpoint_dir)

    @cached_property
    def config(self) -> Path:
        """What was asked for, whole."""
        return self.root / CONFIG

    @cached_property
    def code(self) -> Path:
        """Code of the user's that the run was trained with."""
        return self.root / CODE

    @cached_property
    def status(self) -> Path:
        """The one record of which stages ran."""
        return self.checkpoints / STATUS

    @cached_property
    def lock(self) -> Path:
        """Held by the process that owns the run."""
        return self.checkpoints / LOCK

    @cached_property
    def reports(self) -> Path:
        """Evaluations, figures and the loss history."""
        return self.root / "reports"

    @cached_property
    def history(self) -> Path:
        """What training measured, row by row."""
        return self.reports / HISTORY

    @cached_property
    def report(self) -> Path:
        """The HTML report."""
        return self.reports / REPORT

    @cached_property
    def chain_runs(self) -> Path:
        """The flow runs of a chain, each begun by itself after the one before died."""
        return self.reports / CHAIN_RUNS

    def result(self, evaluation: str, suffix: str = ".json") -> Path:
        """What an evaluation left: .json, .md or .npz."""
        return self.reports / f"{evaluation}{suffix}"

    @cached_property
    def data(self) -> Path:
        """Data sets that we solved for ourselves."""
        return self.root / "data"

    @cached_property
    def staging(self) -> Path:
        """Sets of checkpoints on their way to or from W&B; nothing in it counts."""
        return self.checkpoints / ".staging"

    def present(self) -> frozenset[str]:
        """Names of the files that there are: checkpoints, resume/STATE and reports/RESULT."""
        folders = {"": self.checkpoints, "resume/": self.checkpoints / "resume", "reports/": self.reports}
        return frozenset(
            prefix + path.name for prefix, folder in folders.items() for path in folder.glob("*") if path.is_file()
        )

    def checkpoint(self, name: str) -> Path:
        """A checkpoint by its file name."""
        return self.checkpoints / name

    def resume(self, stage: str) -> Path:
        """The state of a stage in progress."""
        return self.checkpoints / "resume" / f"{stage}.pt"

    def saved_states(self, stage: str) -> tuple[Path, Path]:
        """Where the newest state of a stage in progress lies, and the one before it."""
        newest = self.resume(stage)
        return newest, previous_of(newest)

    def forget_saved_states(self, stage: str) -> None:
        """Delete them: the stage is completed, or starts again."""
        remove(*self.saved_states(stage))

    def require_writable(self) -> None:
        """Raise BadInput when the run cannot be written here; creates nothing."""
        for folder in (self.checkpoints, self.reports, self.data):
            existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
            if not existing.is_dir():
                raise BadInput(f"{existing}: is a file where the run needs a folder; choose another --run-dir")
            if not os.access(existing, os.W_OK | os.X_OK):
                raise BadInput(f"{existing}: cannot be written; choose another --run-dir or change its permissions")
