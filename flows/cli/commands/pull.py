"""`ups pull`: bring what a W&B run holds here."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, add_trust_code
from flows.cli.views.console import echo
from flows.requests.job import find_config, require_tracking
from tasks.services.tracking.run_path import RunPath
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig, TrackingConfig


def add(parser: argparse.ArgumentParser) -> None:
    """The run, and where it goes."""
    parser.add_argument("run_id", metavar="RUN", help="W&B run: id, project/id, entity/project/id, or its address")
    add_path(parser, "--run-dir", "folder that gets checkpoints/ and reports/", Path(), metavar="DIR")
    add_path(parser, "--config", "config it was trained with (default: the one that W&B keeps)")
    add_trust_code(parser)
    parser.add_argument("--force", action="store_true", help="replace what is as new, newer or other there")


def run(arguments: argparse.Namespace) -> int:
    """Bring it, and say what was brought."""
    given = None if arguments.config is None else load_config(find_config(arguments.config), schema=PipelineConfig)
    tracking = TrackingConfig() if given is None else given.tracking
    path = RunPath.parse(arguments.run_id, tracking, "")
    require_tracking(tracking, "ups pull")
    from tasks.services.tracking.pulling import pull

    pulled = pull(path, arguments.run_dir, tracking, given=given, force=arguments.force, trusted=arguments.trust_code)
    where = pulled.run.checkpoints
    echo(f"Checkpoints: {pulled.checkpoints} in {where}" if pulled.checkpoints else f"Checkpoints: kept as in {where}")
    if pulled.report:
        echo(f"Report: {pulled.report} in {pulled.run.report}")
    else:
        advice = f"`ups report --run-dir {pulled.run.root}` renders one from what is here"
        echo(f"Report: not brought, {pulled.kept}; {advice}")
    return 0
