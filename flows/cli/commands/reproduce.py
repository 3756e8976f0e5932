"""`ups reproduce`: make a run of a committed row of results again, and say whether it is the same."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path
from flows.cli.views.console import echo
from flows.plain import train_plainly
from flows.requests.train import TrainRequest
from tasks.services.run.paths import RunDir
from ups_models.errors import UPSError
from ups_models.files import write_text


def add(parser: argparse.ArgumentParser) -> None:
    """The row, and where its run is made."""
    parser.add_argument("row", type=Path, metavar="ROW", help="a JSON file of docs/results")
    add_path(parser, "--run-dir", "folder of the run (default: runs/reproduced/ROW)", metavar="DIR")


def run(arguments: argparse.Namespace) -> int:
    """Train as the row's config and seed say, resuming what is there; 1 where the run is another."""
    from tasks.services.stages.result_rows import compare, reproducible_row

    row = reproducible_row(arguments.row)
    root = arguments.run_dir or Path("runs") / "reproduced" / arguments.row.stem
    config = root / "row.yaml"
    root.mkdir(parents=True, exist_ok=True)
    write_text(config, row.config)
    train_plainly(TrainRequest(config=config, run_dir=root, auto_resume=True))
    found = compare(row, RunDir.of(root, Path("checkpoints")), arguments.row)
    for line in found.lines:
        echo(line)
    if not found.is_same:
        raise UPSError(f"{root} is not the run of {arguments.row}, made at {row.commit:.12} on {row.machine}")
    echo(f"{root} is the run of {arguments.row}")
    return 0
