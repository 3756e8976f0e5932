"""`ups status`: show which stages are trained."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.cli.views.status import checkpoints_in, plan_table, status_json, status_table
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """The folder, and what to show of it."""
    text = "folder of a run, or of its checkpoints (default: %(default)s)"
    parser.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="FOLDER", help=text)
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--verify", action="store_true", help="read every file, compare its digest")
    parser.add_argument("--plan", action="store_true", help="what --auto-resume would do, and why")
    add_path(parser, "--config", "config for --plan (default: the one that the run keeps)")


def run(arguments: argparse.Namespace) -> int:
    """Print the table, or JSON; then the plan."""
    folder, checkpoints = arguments.folder, checkpoints_in(arguments.folder)
    if checkpoints is None and not arguments.plan:
        raise BadInput(f"{folder}: holds no run; name the folder of a run or its checkpoints, or begin one: ups train")
    if checkpoints is not None and arguments.json:
        echo(status_json(checkpoints))
    elif checkpoints is not None:
        echo(status_table(checkpoints, verify=arguments.verify))
    if arguments.plan:
        echo(_plan(checkpoints, folder, arguments.config))
    return 0


def _plan(checkpoints: Path | None, folder: Path, config: Path | None) -> str:
    from flows.requests.job import config_of_run, parse, plan_of
    from flows.requests.train import TrainRequest

    run_dir = folder if checkpoints is None else checkpoints.parent
    path = config_of_run(config, run_dir)
    return plan_table(plan_of(parse(TrainRequest(config=path, run_dir=run_dir, auto_resume=True))))
