"""The folder through which the process that owns a run and the ranks that train for it exchange messages."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.services.run import jsonl
from tasks.services.run.own_files import with_code_in, write_code
from tasks.services.run.paths import RunDir
from ups_models.config.schema import PipelineConfig
from ups_models.files import write_text
from ups_models.reading import open_file, parse_json, read_text

JOB, STOP, CODE = "job.json", "stop", "code"
STARTED, STEPPED, SAVED, DONE, STOPPED, FAILED = "started", "stepped", "saved", "done", "stopped", "failed"
"""What a rank reports of a stage; the last three end it."""
ENDINGS = frozenset({DONE, STOPPED, FAILED})


@dataclass(frozen=True)
class Channel:
    """Job and wish to stop in one direction, events in the other: each file has one writer."""

    folder: Path

    @cached_property
    def logs(self) -> Path:
        """What the ranks and torchrun print."""
        return self.folder / "logs"

    def put_job(self, stage: str, cfg: PipelineConfig, run: RunDir, threads: int) -> None:
        """What all ranks train, and where; with the user's code, some of which this process alone may trust."""
        code = self.folder / CODE
        write_code(cfg, code)
        job = {
            "stage": stage,
            "config": with_code_in(cfg, code),
            "root": str(run.root.absolute()),
            "checkpoints": str(run.checkpoints.absolute()),
            "threads": threads,
        }
        write_text(self.folder / JOB, json.dumps(job))

    def in_words_of_the_run(self, message: str) -> str:
        """What a rank says, with the user's code called by its name and not by where its copy for the ranks lies."""
        return message.replace(f"{self.folder / CODE}/", "")

    def job(self) -> tuple[str, PipelineConfig, RunDir, int]:
        """Stage, config, run and CPU threads of a process."""
        job: dict[str, Any] = parse_json(read_text(self.folder / JOB))
        run = RunDir(Path(job["root"]), Path(job["checkpoints"]))
        return job["stage"], PipelineConfig.model_validate(job["config"]), run, job["threads"]

    def ask_to_stop(self) -> None:
        """Let the ranks stop after their step."""
        (self.folder / STOP).touch()

    def is_asked_to_stop(self) -> bool:
        """Whether that was asked."""
        return (self.folder / STOP).exists()

    def send(self, rank: int, event: str, **facts: Any) -> None:
        """By a rank."""
        jsonl.append(self._events(rank), {"event": event, **facts})

    def listen(self, rank: int) -> "Listener":
        """To what a rank sends."""
        return Listener(self._events(rank))

    def _events(self, rank: int) -> Path:
        return self.folder / f"events-{rank}.jsonl"


class Listener:
    """What a rank has sent since it was asked last; half a line is none yet."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0

    def received(self) -> list[Mapping[str, Any]]:
        """New events, oldest first."""
        try:
            with open_file(self.path) as file:
                file.seek(self.offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self.offset += len(whole) + len(newline)
        return [parse_json(line) for line in whole.splitlines() if line.strip()]
