"""What an emulated machine runs: processes that carry its mark, however they were started, and their end."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

MARK = "EMULATOR_MARK"
"""In the environment of all that a machine runs: `<emulator>.<machine>`."""

# Waits for the end of its input, which the death of the emulator brings whatever killed it.
GUARDIAN = r"""
read -r _
for round in 1 2 3; do
  for process in /proc/[0-9]*; do
    grep -qsz "^$1" "$process/environ" && kill -KILL "${process##*/}"
  done
done
"""


class Machine(Protocol):
    """What runs processes."""

    @property
    def id(self) -> Any:
        """Its number or name."""

    @property
    def process(self) -> "subprocess.Popen[bytes] | None":
        """The first of its processes, in its newest start."""

    def processes(self) -> list[int]:
        """Everything alive that it started."""


def guardian(mark: str) -> "subprocess.Popen[bytes]":
    """A process that outlives this one, and then kills all that carries the mark."""
    return subprocess.Popen(
        ["/usr/bin/env", "bash", "-c", GUARDIAN, "guardian", f"{MARK}={mark}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        start_new_session=True,
    )


def signal_named(pids: list[int], name: str, number: signal.Signals) -> None:
    """A signal to the processes whose command's first word holds the name."""
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            if name.encode() in command:
                os.kill(pid, number)


def process_table() -> dict[int, int]:
    """Every living process and its parent."""
    table = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(FileNotFoundError, ProcessLookupError):
            state, parent, *_ = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if state not in "ZX":
                table[int(entry.name)] = int(parent)
    return table


def marked(pid: int, mark: bytes) -> bool:
    """Whether the process carries the mark in the environment that it was started with."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def family(mark: str, leader: int | None) -> list[int]:
    """Processes with the mark or from the leader, and all their descendants, whatever their session."""
    table = process_table()
    wanted = f"{MARK}={mark}".encode()
    found = {pid for pid in table if pid == leader or marked(pid, wanted)} - {os.getpid()}
    grown = True
    while grown:
        children = {pid for pid, parent in table.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return sorted(found)


def kill_family(machine: Machine, patience_s: float = 20.0) -> None:
    """SIGKILL a machine's processes until two looks in a row find none: a fork or an exec can hide from one."""
    deadline = time.monotonic() + patience_s
    clean_looks = 0
    while clean_looks < 2:
        victims = machine.processes()
        clean_looks = 0 if victims else clean_looks + 1
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if victims and time.monotonic() > deadline:
            raise RuntimeError(f"machine {machine.id}: {victims} survive SIGKILL for {patience_s} s")
        time.sleep(0.003)
    if machine.process is not None:
        machine.process.wait(timeout=patience_s)


class Container:
    """A machine whose processes lie in a folder of its own; what kind of machine it is, its heirs say."""

    id: Any
    folder: Path
    mark: str
    ended_at: float | None
    starts: int
    exit_code: int | None
    process: "subprocess.Popen[bytes] | None"

    @property
    def live(self) -> bool:
        """Not destroyed: a stopped machine may cost too."""
        return self.ended_at is None

    @property
    def log_path(self) -> Path:
        """Everything that the container wrote."""
        return self.folder / "container.log"

    @property
    def home(self) -> Path:
        """Working directory and HOME of the container."""
        return self.folder / "root"

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        """Start the container with this as its command."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["/usr/bin/env", *command],  # found by the machine's PATH; a missing command is its failure, not ours
                cwd=self.home,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.exit_code = None
        self.starts += 1
        return self.process

    def processes(self) -> list[int]:
        """Everything alive that it started."""
        leader = self.process
        return family(self.mark, leader.pid if leader is not None and leader.poll() is None else None)

    def kill(self) -> None:
        """SIGKILL to every descendant, without notice; returns when none is left."""
        kill_family(self)

    def send(self, name: str, number: signal.Signals) -> None:
        """A signal to the processes whose command's first word holds the name."""
        signal_named(self.processes(), name, number)
