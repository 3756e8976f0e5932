"""`ups status`: show which stages are trained."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, add_run, add_trust_code, path_named, run_named
from flows.cli.views.console import echo
from flows.cli.views.status import plan_table, status_json, status_table
from tasks.services.run.config_file import run_in
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """The folder, and what to show of it."""
    add_run(parser)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--verify", action="store_true", help="read every file, compare its digest")
    parser.add_argument("--plan", action="store_true", help="what --auto-resume would do, and why")
    add_path(parser, "--config", "config for --plan (default: the one that the run keeps)")
    add_trust_code(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or JSON; then the plan."""
    if arguments.json and (arguments.verify or arguments.plan):
        raise BadInput("--json: shows what is recorded; ask for --verify or --plan without it")
    folder = path_named(arguments)
    run = run_in(folder) if arguments.plan else run_named(arguments)  # what would be done may be asked before a run is
    if run is not None and arguments.json:
        echo(status_json(run))
    elif run is not None:
        echo(status_table(run, verify=arguments.verify))
    if arguments.plan:
        echo(_plan(folder if run is None else run.root, arguments))
    return 0


def _plan(run_dir: Path, arguments: argparse.Namespace) -> str:
    from flows.requests.job import config_of_run, parse, plan_of
    from flows.requests.train import TrainRequest

    path, trusted = config_of_run(arguments.config, run_dir), tuple(arguments.trust_code)
    return plan_table(plan_of(parse(TrainRequest(config=path, run_dir=run_dir, auto_resume=True, trust_code=trusted))))
