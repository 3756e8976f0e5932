"""`ups status`: show which stages are trained."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.cli.views.status import plan_table, status_json, status_table


def add(parser: argparse.ArgumentParser) -> None:
    """The folder, and what to show of it."""
    text = "checkpoint folder (default: %(default)s)"
    parser.add_argument("checkpoints", nargs="?", type=Path, default=Path("checkpoints"), help=text)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--verify", action="store_true", help="read every file, compare its digest")
    parser.add_argument("--plan", action="store_true", help="what --auto-resume would do, and why")
    add_path(parser, "--config", "config for --plan (default: the one that the run keeps)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or JSON; then the plan."""
    if arguments.json:
        echo(status_json(arguments.checkpoints))
    else:
        echo(status_table(arguments.checkpoints, verify=arguments.verify))
    if arguments.plan:
        echo(_plan(arguments.checkpoints, arguments.config))
    return 0


def _plan(checkpoints: Path, config: Path | None) -> str:
    from flows.requests.job import config_of_run, parse, plan_of
    from flows.requests.train import TrainRequest

    run_dir = checkpoints.parent if checkpoints.name else checkpoints
    path = config_of_run(config, run_dir)
    return plan_table(plan_of(parse(TrainRequest(config=path, run_dir=run_dir, auto_resume=True))))
