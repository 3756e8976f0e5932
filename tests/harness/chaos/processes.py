"""One life of the pipeline as a process: forked from a warm parent, the real command, or under a Prefect worker."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from flows import ROOT
from harness.chaos import workload as work
from harness.chaos.workload import CONFIG, Workload
from tasks.services.run.signals import end_at_once_on_sigterm
from ups_models.errors import UPSError
from ups_models.files import CrashHook, arm_crash_points

LIFE_TIMEOUT_S = 180
POLL_S = 0.002


class RunProcess(Protocol):
    """A process that can be watched and signalled."""

    kind: str

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def send(self, number: signal.Signals) -> None:
        """Signal it."""


@dataclass(frozen=True)
class Ending:
    """How a life ended, and the seconds from its start to the first step that it trained."""

    code: int
    first_step_s: float | None


class Forked:
    """A child of the harness that runs the pipeline without Prefect: the cheapest life."""

    kind = "forked"

    def __init__(
        self,
        workload: Workload,
        directory: Path,
        log: Path,
        *,
        hook: CrashHook | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _child(workload, directory, log, hook, prepare)

    def poll(self) -> int | None:
        """Its exit code."""
        if self.code is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if done else None
        return self.code

    def send(self, number: signal.Signals) -> None:
        """Signal it, unless it was found dead."""
        if self.code is None:
            os.kill(self.pid, number)


class Command:
    """`python flows/pipeline.py` as a user starts it; PREFECT_API_URL names the harness's one server."""

    kind = "flow"

    def __init__(
        self,
        workload: Workload,
        directory: Path,
        log: Path,
        *,
        extra: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        arguments = [argument for setting in workload.settings for argument in ("--set", setting)]
        command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", CONFIG, *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--run-dir", str(directory), "--auto-resume", *extra],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
            )

    def poll(self) -> int | None:
        """Its exit code."""
        return self.process.poll()

    def send(self, number: signal.Signals) -> None:
        """Signal it."""
        self.process.send_signal(number)


def finish(life: RunProcess) -> int:
    """Let a life end by itself and return its exit code."""
    return end(life, LIFE_TIMEOUT_S, signal.SIGKILL).code


def end(life: RunProcess, delay_s: float, number: signal.Signals, history: Path | None = None) -> Ending:
    """Signal a life after a delay and wait for its death; its exit code is 0 when it had finished before.

    `history` is the file that grows with its first training step.
    """
    started, started_ns = time.monotonic(), time.time_ns()
    first_step_s, sent = None, False
    while (code := life.poll()) is None:
        elapsed = time.monotonic() - started
        if history is not None and first_step_s is None and _written_since(history, started_ns):
            first_step_s = elapsed
        if elapsed > delay_s and not sent:
            life.send(number)
            sent = True
        if elapsed > delay_s + LIFE_TIMEOUT_S:
            life.send(signal.SIGKILL)
        time.sleep(POLL_S)
    return Ending(code, first_step_s)


def _written_since(path: Path, moment_ns: int) -> bool:
    try:
        return path.stat().st_mtime_ns > moment_ns
    except FileNotFoundError:
        return False


def _child(
    workload: Workload, directory: Path, log: Path, hook: CrashHook | None, prepare: Callable[[], None] | None
) -> NoReturn:
    code = 1
    end_at_once_on_sigterm("stopped by a signal")  # as the command line does
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
        if prepare is not None:
            prepare()
        arm_crash_points(hook)
        work.run_plainly(workload, directory)
        code = 0
    except UPSError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        code = error.exit_code
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - the child must end here, whatever happened, and say what it was
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
