"""`ups export`: a trained surrogate as one file."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_run, add_trust_code, path_named, require_writable
from flows.cli.views.console import echo
from ups_models.errors import BadInput

WEIGHTS, PROGRAM = ".safetensors", ".pt2"


def add(parser: argparse.ArgumentParser) -> None:
    """The run, and the file."""
    add_run(parser)
    text = (
        f"file to write: {WEIGHTS}, which load_surrogate reads, or {PROGRAM}, one step of the operator for torch.export"
    )
    parser.add_argument("--to", type=Path, required=True, metavar="FILE", help=text)
    add_trust_code(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load, write, and say whether the file is enough by itself."""
    if arguments.to.suffix not in (WEIGHTS, PROGRAM):
        raise BadInput(
            f"--to {arguments.to}: name it *{WEIGHTS} (a whole surrogate) or *{PROGRAM} (the operator's step)"
        )
    require_writable(arguments.to)
    from ups_models.exporting import export, export_step
    from ups_models.surrogate import load_surrogate

    surrogate = load_surrogate(path_named(arguments), trust_code=arguments.trust_code)
    if arguments.to.suffix == PROGRAM:
        about = export_step(surrogate, arguments.to)
        echo(f"{arguments.to}: the operator's step, (u, parameters) -> u, for torch.export.load")
        echo(f"u: {about['u']}\nparameters: {about['parameters']}, with dt = {surrogate.dt:g}")
        return 0
    needs = export(surrogate, arguments.to)
    beside = f"; it is not self-contained: it needs {', '.join(needs)}" if needs else ", self-contained"
    echo(f"{arguments.to}: {', '.join(surrogate.models.networks())}{beside}")
    return 0
