"""What the harness kills: the whole pipeline in a forked child without Prefect, or a real flow process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from flows import ROOT
from flows.request import Job, TrainRequest, resolve
from tasks.services.evaluation import evaluate_run, write_report
from tasks.services.execution import carry_out
from tasks.services.planning import plan, plan_evaluation
from tasks.services.run_dir import owned
from ups_models.errors import UPSError
from ups_models.files import CrashHook, arm_crash_points

SETTINGS = (
    "checkpoint.save_every_steps=5",
    "stages.operator.epochs=4",
    "stages.diff_residual.epochs=3",
    "stages.consistency_distill.epochs=4",
    "stages.steady_prior.epochs=4",
    "stages.operator.steps_per_epoch=40",
    "stages.diff_residual.steps_per_epoch=40",
    "stages.consistency_distill.steps_per_epoch=20",
    "stages.steady_prior.steps_per_epoch=20",
)
SAVE_EVERY_STEPS = 5
STOPPED = 75


def request_for(directory: Path) -> TrainRequest:
    """The same small pipeline every time, in a directory of its own."""
    return TrainRequest(config=Path("configs/smoke.yaml"), set=SETTINGS, run_dir=directory, auto_resume=True)


def run_plainly(directory: Path) -> None:
    """The flow's order of work without Prefect: what a kill can reach is the same files."""
    job = resolve(request_for(directory))
    with owned(job.run):
        for decision in plan(job.cfg, job.run, job.policy):
            carry_out(decision, job.cfg, job.run)
        if evaluate_all(job):
            write_report(job.run)


def evaluate_all(job: Job) -> bool:
    """Run the evaluations that are due; whether the report is older than what it shows."""
    changed = not (job.run.reports / "report.html").exists()
    for name, settings in job.evaluations.items():
        if plan_evaluation(name, settings, job.cfg, job.run, redo=False).run:
            evaluate_run(name, job.cfg, settings, job.run)
            changed = True
    return changed


def fork_run(
    directory: Path, log: Path, *, hook: CrashHook | None = None, prepare: Callable[[], None] | None = None
) -> int:
    """Fork a child that runs the pipeline plainly, with crash points armed; returns its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if not pid:
        _child(directory, log, hook, prepare)
    return pid


def start_flow(directory: Path, log: Path) -> subprocess.Popen[bytes]:
    """The real command line, under Prefect; PREFECT_API_URL names the harness's one server."""
    arguments = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), "--config", "configs/smoke.yaml", *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "--run-dir", str(directory), "--auto-resume"], stdout=output, stderr=output, cwd=ROOT
        )


def _child(directory: Path, log: Path, hook: CrashHook | None, prepare: Callable[[], None] | None) -> NoReturn:
    code = 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))  # as the command line does
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        if prepare is not None:
            prepare()
        arm_crash_points(hook)
        run_plainly(directory)
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
