"""`ups predict`: roll a trained surrogate out from fields in a file."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_run, add_trust_code, count, named_numbers, path_named, require_writable, seed
from flows.cli.views.console import echo
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """The run, what to begin with, and where to write what follows."""
    add_run(parser, "--run")
    parser.add_argument(
        "--input", type=Path, required=True, metavar="FILE", help="u0.npz with an array u0 ([N,] C, *space)"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="file to write: .npz with u, t and axes"
    )
    parser.add_argument("--steps", type=count, default=40, help="steps of the rollout (default: %(default)s)")
    parser.add_argument("--members", type=count, help="members of an ensemble (default: the operator alone)")
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the equation; may be given several times (default: the array NAME of --input, or the one trained on)",
    )
    add_trust_code(parser)
    parser.add_argument("--seed", type=seed, default=0, help="seed of the members (default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="where to compute (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Load, roll out, write, and say what was written."""
    if arguments.output.suffix != ".npz":
        raise BadInput(f"--output {arguments.output}: forecasts are written by NumPy; name the file *.npz")
    require_writable(arguments.output)
    if arguments.output.exists() and arguments.input.exists() and arguments.output.samefile(arguments.input):
        raise BadInput(f"--output {arguments.output}: is the --input, which would be lost; name another file")
    from tasks.services.stages.predicting import predict

    shape = predict(
        path_named(arguments),
        arguments.input,
        arguments.output,
        steps=arguments.steps,
        members=arguments.members,
        seed=arguments.seed,
        device=arguments.device,
        parameters=named_numbers(arguments.parameter),
        trust_code=arguments.trust_code,
    )
    echo(f"{arguments.output}: u {' x '.join(map(str, shape))}")
    return 0
