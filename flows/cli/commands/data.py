"""`ups data generate`, `ups data info`, `ups data upload`: generate, inspect and publish data files."""

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from flows.cli.arguments import count, positive, require_writable, seed
from flows.cli.views.console import echo
from flows.cli.views.data import print_file_info
from tasks.services.tracking.run_path import NAME
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput
from ups_models.problems.registry import PROBLEMS


def add(parser: argparse.ArgumentParser) -> None:
    """The commands below `ups data`."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="Solve a PDE and write a PDEBench-layout file.")
    generate.add_argument("family", choices=tuple(PROBLEMS), help="equation")
    generate.add_argument("--n", type=count, default=640, help="trajectories or samples (default: %(default)s)")
    generate.add_argument("--nu", type=positive, help=f"viscosity ({_defaults('nu')})")
    generate.add_argument("--beta", type=positive, help=f"speed, or force of darcy2d ({_defaults('beta')})")
    points = {name: problem.default_points for name, problem in PROBLEMS.items()}
    generate.add_argument("--nx", type=count, help=f"grid points stored, along each axis ({_listed(points)})")
    generate.add_argument("--nt", type=count, default=41, help="times stored, 1D (default: %(default)s)")
    generate.add_argument("--t-end", type=positive, default=2.0, help="last time, 1D (default: %(default)g)")
    generate.add_argument("--seed", type=seed, default=0, help="seed of the initial conditions (default: %(default)s)")
    generate.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    generate.set_defaults(act=_generate)
    info = commands.add_parser("info", help="Show what a data file holds, and what is wrong with it.")
    info.add_argument("file", type=Path, help="PDEBench-layout HDF5 file")
    info.set_defaults(act=_info)
    upload = commands.add_parser("upload", help="Put data files into W&B, for rented machines to fetch.")
    upload.add_argument("files", type=Path, nargs="+", metavar="FILE", help="file to upload")
    upload.add_argument("--name", type=_artifact_name, default="data", help="W&B artifact (default: %(default)s)")
    upload.set_defaults(act=_upload)


def run(arguments: argparse.Namespace) -> int:
    """Generate, inspect, or upload."""
    act: Callable[[argparse.Namespace], None] = arguments.act
    act(arguments)
    return 0


def _defaults(flag: str) -> str:
    return _listed({name: problem.default_parameter for name, problem in PROBLEMS.items() if problem.flag == flag})


def _listed(values: dict[str, int] | dict[str, float]) -> str:
    return "default: " + ", ".join(f"{name} {value:g}" for name, value in values.items())


def _generate(arguments: argparse.Namespace) -> None:
    problem = PROBLEMS[arguments.family]
    other = "beta" if problem.flag == "nu" else "nu"
    if getattr(arguments, other) is not None:
        raise BadInput(f"--{other}: {arguments.family} has no {other}; give --{problem.flag}")
    require_writable(arguments.out)
    from tasks.services.run.progress import progress_of
    from ups_models.data.generate import generate

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with progress_of(arguments.out.name, arguments.n) as update:
        generate(
            arguments.family,
            arguments.out,
            n=arguments.n,
            seed=arguments.seed,
            parameter=getattr(arguments, problem.flag) or problem.default_parameter,
            nx=arguments.nx or problem.default_points,
            nt=arguments.nt,
            t_end=arguments.t_end,
            on_progress=lambda done: update(done, "solved"),
        )
    echo(f"{arguments.out}")


def _artifact_name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("letters, digits, dots, dashes and underscores alone, at most 128")
    return text


def _upload(arguments: argparse.Namespace) -> None:
    from tasks.services.data.upload import upload

    downloads = upload(arguments.files, arguments.name, TrackingConfig())
    entries = [download.model_dump(exclude_none=True) for download in downloads]
    echo(yaml.safe_dump({"downloads": entries}, sort_keys=False, width=1000).rstrip())


def _info(arguments: argparse.Namespace) -> None:
    from ups_models.data.inspect import inspect

    print_file_info(inspect(arguments.file))
