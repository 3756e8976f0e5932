"""`ups train`: train the four stages and evaluate them."""

import argparse
from typing import Any

from flows.cli.fields import add_fields, request_of
from flows.cli.runner import STOPPED, run_flow
from flows.cli.views.console import echo
from flows.cli.views.status import status_table
from flows.requests.job import parse, require_feasible
from flows.requests.train import TrainRequest


def add(parser: argparse.ArgumentParser) -> None:
    """The fields of the request."""
    add_fields(parser, TrainRequest)


def run(arguments: argparse.Namespace) -> int:
    """Refuse what can be refused without a server, then import Prefect and run the flow."""
    request = request_of(TrainRequest, arguments)
    job = parse(request)
    require_feasible(job)
    report = run_flow(_flow, request, stopped=STOPPED)
    echo(status_table(job.run.checkpoints))
    echo(f"Report: {report}")
    return 0


def _flow() -> Any:
    from flows.pipeline import train_pipeline

    return train_pipeline
