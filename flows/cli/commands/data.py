"""`ups data generate`, `ups data info`, `ups data upload`: generate, inspect and publish data files."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from flows.cli.arguments import count, named_numbers, positive, require_writable, seed
from flows.cli.views.console import echo
from flows.cli.views.data import print_file_info
from tasks.services.tracking.run_path import NAME
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput
from ups_models.problems.finding import problem_named
from ups_models.problems.problem import Problem
from ups_models.problems.registry import solved_problems


def add(parser: argparse.ArgumentParser) -> None:
    """The commands below `ups data`."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="Solve a PDE and write a data file.")
    generate.add_argument(
        "family",
        metavar="PROBLEM",
        help=f"problem: {', '.join(solved_problems())}; or one of your own, as my_pde.py:NAME",
    )
    generate.add_argument("--n", type=count, default=640, help="trajectories or samples (default: %(default)s)")
    for flag, defaults in _flags().items():
        generate.add_argument(f"--{flag}", type=float, help=f"parameter ({_listed(defaults)})")
    text = "parameter by its name, also of a problem of your own; may be given several times"
    generate.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help=text)
    points = {name: problem.sampling.points for name, problem in solved_problems().items()}
    generate.add_argument("--nx", type=count, help=f"grid points stored, along each axis ({_listed(points)})")
    evolving = {name: problem.sampling for name, problem in solved_problems().items() if not problem.steady}
    times = _listed({name: sampling.nt for name, sampling in evolving.items()})
    ends = _listed({name: sampling.t_end for name, sampling in evolving.items()})
    generate.add_argument("--nt", type=count, help=f"times stored ({times})")
    generate.add_argument("--t-end", type=positive, help=f"last time ({ends})")
    generate.add_argument("--seed", type=seed, default=0, help="seed of the initial conditions (default: %(default)s)")
    generate.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    generate.set_defaults(act=_generate)
    info = commands.add_parser("info", help="Show what a data file of a known layout holds.")
    info.add_argument("file", type=Path, help="data file")
    text = "read it as this problem, as data.problem does, and refuse what training would"
    info.add_argument("--problem", metavar="PROBLEM", help=text)
    text = "a function of your own that reads it, as data.layout: my_layout.py:read"
    info.add_argument("--layout", metavar="FILE:NAME", help=text)
    text = "with --problem: a parameter that the file does not tell, as data.parameters; may be given several times"
    info.add_argument("--parameter", action="append", default=[], metavar="NAME=VALUE", help=text)
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


def _flags() -> dict[str, dict[str, float]]:
    """Every parameter's flag, and the defaults of the problems that have it."""
    found: dict[str, dict[str, float]] = {}
    for name, problem in solved_problems().items():
        for one in problem.parameters:
            found.setdefault(one.flag, {})[name] = one.default
    return found


def _listed(values: Mapping[str, float]) -> str:
    return "default: " + ", ".join(f"{name} {value:g}" for name, value in values.items())


def _parameters_of(problem: Problem, arguments: argparse.Namespace) -> dict[str, float]:
    """The problem's parameters as the flags give them. Raises BadInput for a flag that it does not have."""
    given = {flag: getattr(arguments, flag.replace("-", "_")) for flag in _flags()}
    own = {one.flag: one for one in problem.parameters}
    for flag, value in given.items():
        if value is not None and flag not in own:
            known = " and ".join(f"--{name}" for name in own) or "none"
            raise BadInput(f"--{flag}: {problem.name} has no {flag}; give {known}")
    said = problem.spelt_out(named_numbers(arguments.parameter))
    if twice := next((one for flag, one in own.items() if given.get(flag) is not None and one.name in said), None):
        raise BadInput(f"--{twice.flag} and --parameter {twice.name}: are the same; give one of them")
    values = {one.name: one.default if given.get(flag) is None else given[flag] for flag, one in own.items()} | said
    if fault := problem.fault_of(values):
        raise BadInput(fault)
    return values


def _generate(arguments: argparse.Namespace) -> None:
    problem = problem_named(arguments.family)
    parameters, sampling = _parameters_of(problem, arguments), problem.sampling
    if problem.steady and (arguments.nt or arguments.t_end):
        raise BadInput(f"{problem.name} has steady states: leave out --nt and --t-end")
    if arguments.out.suffix == ".npz":
        raise BadInput(f"--out {arguments.out}: data are written as HDF5; name the file *.h5")
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
            parameters=parameters,
            nx=arguments.nx or sampling.points,
            nt=arguments.nt or sampling.nt,
            t_end=arguments.t_end or sampling.t_end,
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
    from ups_models.data.inspect import inspect, require_trainable

    problem = problem_named(arguments.problem) if arguments.problem is not None else None
    if arguments.parameter and problem is None:
        raise BadInput("--parameter: says what a problem needs; name it with --problem")
    said = problem.spelt_out(named_numbers(arguments.parameter)) if problem is not None else {}
    if problem is not None and (fault := problem.fault_of({**problem.defaults, **said})):
        raise BadInput(f"--parameter: {fault}")
    print_file_info(inspect(arguments.file, problem, arguments.layout))
    if problem is not None:
        require_trainable(arguments.file, problem, arguments.layout, said)
        echo(f"can be trained on as {problem.name}")
