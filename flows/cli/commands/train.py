"""`ups train`: train the four stages and evaluate them."""

import argparse
from typing import Any

from flows.cli.fields import add_fields, request_of
from flows.cli.runner import STOPPED, run_flow
from flows.cli.views.console import echo
from flows.cli.views.status import status_table
from flows.plain import train_plainly
from flows.requests.job import parse, require_feasible
from flows.requests.train import TrainRequest
from tasks.services.run import environment
from tasks.services.run.paths import RunDir
from tasks.services.run.status import EVALUATIONS
from tasks.services.stages.job import Job


def add(parser: argparse.ArgumentParser) -> None:
    """The fields of the request, and whether a server must record the run."""
    add_fields(parser, TrainRequest)
    text = "refuse to train when the Prefect server of PREFECT_API_URL does not answer; otherwise only a warning"
    parser.add_argument("--require-server", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Refuse what can be refused without a server, then import Prefect and run the flow."""
    request = request_of(TrainRequest, arguments)
    job = parse(request)
    if environment.world()[0]:
        return _follow(job)
    try:
        report = run_flow(
            _flow,
            request,
            plainly=train_plainly,
            stopped=STOPPED,
            require_server=arguments.require_server,
            idle=not require_feasible(job),
        )
    finally:
        _dismiss_others()
    echo(status_table(job.run))
    if missed := _missed_checks(job.run):
        echo(missed)
    echo(f"Report: {report}")
    return 0


def _follow(job: Job) -> int:
    """One of the processes of a user's torchrun that train with the first."""
    from tasks.services.stages.torchrun import follow

    follow(job.cfg, job.run)
    return 0


def _dismiss_others() -> None:
    if environment.world()[1] > 1:
        from tasks.services.stages.torchrun import dismiss

        dismiss()


def _missed_checks(run: RunDir) -> str:
    """The checks that the newest evaluation does not reach, in one line; empty where it reaches all."""
    from ups_models.evaluation.result import read_result
    from ups_models.report.words import verdict

    for name in reversed(EVALUATIONS):
        if run.result(name).is_file():
            found = verdict(read_result(run.result(name)))
            return f"{name}: {found.text}" if found.state == "fail" else ""
    return ""


def _flow() -> Any:
    from flows.pipeline import train_pipeline

    return train_pipeline
