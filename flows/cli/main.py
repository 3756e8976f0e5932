"""The command line: `ups ...`, one line and an exit code for every error that a person can cure."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from ups_models.errors import BadInput, Preempted, UPSError

DESCRIPTION = "Train and evaluate a latent PDE surrogate on machines that may vanish at any moment."
PREEMPTED = 75
STOPPED = "stopped by a signal; the same command with --auto-resume goes on"
LAUNCH_STOPPED = "stopped by a signal; the machines are given back; the same command goes on"
INTERRUPTED = 130
STOPPABLE = ("train", "launch")


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input, 75 preempted and resumable."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] and given[0] in STOPPABLE:
        signal.signal(signal.SIGTERM, _exit_preempted)
    try:
        arguments = _parser().parse_args(given)
        command: Callable[[argparse.Namespace], int] = arguments.command
        return command(arguments)
    except UPSError as error:
        sys.stderr.write(f"ups: {error}\n")
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"ups: {where}{error.strerror or error}; choose another path, or change its permissions\n")
        return BadInput.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("ups: interrupted\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="ups", description=DESCRIPTION)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary, argument_default=argparse.SUPPRESS)
        command.set_defaults(command=run)
        return command

    _add_train_flags(add("train", _train, "Train the four stages and evaluate them."))
    status = add("status", _status, "Show which stages are trained.")
    status.add_argument("checkpoints", nargs="?", type=Path, default=Path("checkpoints"), help="checkpoint folder")
    status.add_argument("--json", action="store_true", default=False, help="the same for machines")
    status.add_argument("--verify", action="store_true", default=False, help="read every file, compare its digest")
    status.add_argument("--plan", action="store_true", default=False, help="what --auto-resume would do, and why")
    status.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="config for --plan")
    sync = add("sync", _sync, "Send to W&B what it lacks of a run: rows, checkpoints, the report.")
    sync.add_argument("run_dir", nargs="?", type=Path, default=Path(), help="folder of checkpoints/ and reports/")
    sync.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"), help="config it was trained with")
    sync.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config value")
    _add_evaluate_flags(add("evaluate", _evaluate, "Evaluate checkpoint files."))
    _add_launch_flags(add("launch", _launch, "Train on rented machines, and give them back."))
    instances = add("instances", _instances, "List the machines that we rent.")
    destroy = add("destroy", _destroy, "Give machines back.")
    destroy.add_argument("ids", nargs="*", type=_count, default=[], metavar="ID", help="instances to destroy")
    destroy.add_argument("--all-mine", action="store_true", default=False, help="every instance of ours")
    destroy.add_argument("--yes", action="store_true", default=False, help="do not ask")
    for parser_of in (instances, destroy):
        parser_of.add_argument("--provider", choices=("vast", "local"), default="vast", help="where they are")
        parser_of.add_argument("--run-dir", type=Path, default=Path(), help="folder of local instances")
    _add_server_commands(add)
    _add_report_flags(add("report", _report, "Render reports/report.html again."))
    _add_data_commands(add("data", _no_command, "Generate and inspect data files."))
    return parser


def _add_server_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    deploy = add("deploy", _deploy, "Put work pool, deployments and automations on the Prefect server.")
    deploy.add_argument("--dry-run", action="store_true", default=False, help="say what would be made")
    deploy.add_argument("--retry-after", type=_positive, default=10.0, help="seconds from a crash to the next attempt")
    deploy.add_argument(
        "--notify", metavar="BLOCK", default=None, help="notification block TYPE/NAME to tell of failures"
    )
    deploy.add_argument("--vanished-after", type=_positive, default=90.0, help="seconds without a heartbeat: crashed")
    watch = add("watch", _watch, "Run again what died and what the Prefect server's automations missed.")
    watch.add_argument("--every", type=_positive, default=30.0, help="seconds between two looks")
    watch.add_argument("--patience", type=_positive, default=60.0, help="seconds that an automation may take")
    watch.add_argument("--once", action="store_true", default=False, help="look once, and end")


def _add_train_flags(parser: argparse.ArgumentParser) -> None:
    from flows.requests.train import TrainRequest

    _add_fields(parser, TrainRequest)


def _add_launch_flags(parser: argparse.ArgumentParser) -> None:
    from flows.requests.launch import LaunchRequest

    _add_fields(parser, LaunchRequest)
    parser.add_argument("--on-demand", dest="interruptible", action="store_false", help="not --interruptible")
    parser.add_argument("--dry-run", action="store_true", help="show offer, cost and script; rent nothing")
    parser.add_argument("--detach", action="store_true", help="go on in the background")


def _add_fields(parser: argparse.ArgumentParser, request: Any) -> None:
    """One flag for each field of a request; what is true by default gets a --no- form."""
    for name, field in request.model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        flags = ["--" + name.replace("_", "-")] + ([str(extra["flag"])] if "flag" in extra else [])
        options: dict[str, Any] = {"help": field.description, "dest": name}
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        elif name == "set":
            options |= {"action": "append", "metavar": "KEY=VALUE"}
        else:
            options["metavar"] = name.upper().replace("_CONFIG", "").replace("_DIR", "")
        parser.add_argument(*flags, **options)


def _add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--operator", type=Path, help="checkpoint of stage operator")
    parser.add_argument("--diffusion", type=Path, help="checkpoint of stage diff_residual")
    parser.add_argument("--student", type=Path, help="checkpoint of stage consistency_distill")
    parser.add_argument("--prior", type=Path, help="checkpoint of stage steady_prior")
    parser.add_argument("--config", type=Path, required=True, help="config they were trained with")
    parser.add_argument("--eval-config", type=Path, default=Path("configs/full_eval.yaml"), help="what to evaluate")
    parser.add_argument("--data", type=Path, help="evaluate on every row of this PDEBench-layout file")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="overrides runtime.device")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config value")
    parser.add_argument("--run-dir", type=Path, default=Path(), help="run whose data/ is used")
    parser.add_argument(
        "--output-prefix", type=Path, default=Path("reports/evaluation"), help="PREFIX.json, .md, .html"
    )


def _add_report_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-dir", type=Path, default=Path(), help="folder of checkpoints/ and reports/")


def _add_data_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    generate = commands.add_parser("generate", help="Solve a PDE and write a PDEBench-layout file.")
    generate.add_argument("family", choices=("burgers1d", "advection1d", "darcy2d"), help="equation")
    generate.add_argument("--n", type=_count, default=640, help="trajectories or samples")
    generate.add_argument("--nu", type=_positive, help="viscosity (burgers1d)")
    generate.add_argument("--beta", type=_positive, help="speed (advection1d) or force (darcy2d)")
    generate.add_argument("--nx", type=_count, help="grid points stored, along each axis")
    generate.add_argument("--nt", type=_count, default=41, help="times stored (1D)")
    generate.add_argument("--t-end", type=_positive, default=2.0, help="last time (1D)")
    generate.add_argument("--seed", type=_seed, default=0, help="seed of the initial conditions")
    generate.add_argument("--out", type=Path, required=True, help="file to write")
    generate.set_defaults(command=_data_generate)
    info = commands.add_parser("info", help="Show what a data file holds, and what is wrong with it.")
    info.add_argument("file", type=Path, help="PDEBench-layout HDF5 file")
    info.set_defaults(command=_data_info)


def _count(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def _seed(text: str) -> int:
    """A whole number, zero included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, zero or above")
    return int(text)


def _positive(text: str) -> float:
    """A finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above zero")
    return number


def _require_writable(path: Path) -> None:
    """Raise BadInput when a file cannot be written there; creates nothing."""
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; name a file in it")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(f"{parent}: cannot be written; choose another folder for {path.name}")


def _validated(schema: Any, arguments: argparse.Namespace, *, without: tuple[str, ...] = ()) -> Any:
    """A request from its flags. Raises BadInput that names the flag."""
    from pydantic import ValidationError

    from flows.requests.train import first_fault

    given = {key: value for key, value in vars(arguments).items() if key not in ("command", *without)}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise BadInput(first_fault(error)) from None


def _train(arguments: argparse.Namespace) -> int:
    from flows.requests.job import parse, require_feasible
    from flows.requests.train import TrainRequest

    request = _validated(TrainRequest, arguments)
    _log_to_stderr()
    job = parse(request)
    require_feasible(job)
    from flows.prefect.server import quiet_prefect, temporary_server

    quiet_prefect()
    with temporary_server():
        from flows.pipeline import train_pipeline

        report = _run_flow(train_pipeline, request)
    from flows.cli.views.status import echo, status_table

    echo(status_table(job.run.checkpoints))
    sys.stdout.write(f"Report: {report}\n")
    return 0


def _run_flow(flow: Any, request: Any) -> str:
    from prefect.exceptions import TerminationSignal

    signal.signal(signal.SIGTERM, _raise_preempted)
    try:
        return str(flow(request))
    except (TerminationSignal, KeyboardInterrupt, SystemExit):
        raise Preempted(STOPPED if flow.name == "train-pipeline" else LAUNCH_STOPPED) from None
    except UPSError:
        raise
    except Exception as error:
        logging.getLogger(__name__).debug("the run failed", exc_info=True)
        detail = (str(error).splitlines() or [""])[0]
        raise UPSError(f"{type(error).__name__}: {detail}; set UPS_LOG=debug for the traceback") from error


def _exit_preempted(_number: int, _frame: FrameType | None) -> NoReturn:
    """End at once: before the flow runs there is nothing to save.

    An exception would be raised in whatever code is at work, such as imports, and some makes another error of it.
    """
    os.write(2, f"ups: {STOPPED}\n".encode())
    os._exit(PREEMPTED)


def _raise_preempted(_number: int, _frame: FrameType | None) -> NoReturn:
    """Prefect handles the signal while the flow runs, then hands it on to us: what it has to tell must get out."""
    raise SystemExit(PREEMPTED)


def _status(arguments: argparse.Namespace) -> int:
    from flows.cli.views.status import echo, plan_table, status_json, status_table

    if arguments.json:
        echo(status_json(arguments.checkpoints))
    else:
        echo(status_table(arguments.checkpoints, verify=arguments.verify))
    if arguments.plan:
        echo(plan_table(_planned(arguments)))
    return 0


def _planned(arguments: argparse.Namespace) -> Any:
    from flows.requests.job import parse, plan_of
    from flows.requests.train import TrainRequest

    run_dir = arguments.checkpoints.parent if arguments.checkpoints.name else arguments.checkpoints
    return plan_of(parse(TrainRequest(config=arguments.config, run_dir=run_dir, auto_resume=True)))


def _evaluate(arguments: argparse.Namespace) -> int:
    from flows.requests.job import find_config, require_device
    from ups_models.config.loading import load_config
    from ups_models.config.schema import EvalConfig, PipelineConfig

    overrides = list(arguments.set)
    if "device" in arguments:
        overrides.append(f"runtime.device={arguments.device}")
    cfg = load_config(find_config(arguments.config), overrides, schema=PipelineConfig)
    settings = load_config(find_config(arguments.eval_config), schema=EvalConfig)
    require_device(cfg)
    flags = {
        "operator": "operator",
        "diffusion": "diff_residual",
        "student": "consistency_distill",
        "prior": "steady_prior",
    }
    files = {stage: getattr(arguments, flag) for flag, stage in flags.items() if flag in arguments}
    if not files:
        raise BadInput("name a checkpoint to evaluate: --operator FILE, or --prior FILE for the steady prior alone")
    _require_writable(arguments.output_prefix.with_name(arguments.output_prefix.name + ".json"))
    _log_to_stderr()
    from tasks.services.stages.evaluating import evaluate_files, headline

    result = evaluate_files(
        cfg,
        settings,
        files,
        data_path=getattr(arguments, "data", None),
        run_dir=arguments.run_dir,
        prefix=arguments.output_prefix,
    )
    sys.stdout.write(f"{headline(result)}\nReport: {arguments.output_prefix}.html\n")
    return 0


def _launch(arguments: argparse.Namespace) -> int:
    from flows.requests.launch import LaunchRequest, require_sound

    request = _validated(LaunchRequest, arguments, without=("dry_run", "detach"))
    _log_to_stderr()
    if "dry_run" in arguments:
        from flows.cli.views.machines import plan_of
        from flows.cli.views.status import echo

        echo(plan_of(request))
        return 0
    require_sound(request)
    if "detach" in arguments:
        from flows.cli.views.machines import plan_of

        plan_of(request)  # what is wrong is said here, where somebody reads it
        return _detached(request.run_dir)
    from flows.prefect.server import quiet_prefect, temporary_server

    quiet_prefect()
    with temporary_server():
        from flows.remote import train_on_vast

        run = _run_flow(train_on_vast, request)
    sys.stdout.write(f"Trained: {run}\n")
    return 0


def _detached(run_dir: Path) -> int:
    """Start the same command again, in a session of its own."""
    import subprocess

    run_dir.mkdir(parents=True, exist_ok=True)
    again = [argument for argument in sys.argv[1:] if argument != "--detach"]
    with (run_dir / "launch.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *again],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    sys.stdout.write(f"Process {child.pid} goes on; it writes to {run_dir / 'launch.log'}\n")
    return 0


def _instances(arguments: argparse.Namespace) -> int:
    from flows.cli.views.machines import instance_table, our_instances
    from flows.cli.views.status import echo

    echo(instance_table(our_instances(arguments.provider, arguments.run_dir)))
    return 0


def _destroy(arguments: argparse.Namespace) -> int:
    from flows.cli.views.machines import instance_table, our_instances, provider_named
    from flows.cli.views.status import echo

    if not (arguments.all_mine or arguments.ids):
        raise BadInput("name an instance, or --all-mine; `ups instances` lists them")
    ours = our_instances(arguments.provider, arguments.run_dir)
    chosen = [one for one in ours if arguments.all_mine or one.id in arguments.ids]
    strangers = sorted(set(arguments.ids) - {one.id for one in ours})
    if strangers:
        raise BadInput(f"instance {strangers[0]}: is none of ours; `ups instances` lists them")
    echo(instance_table(chosen))
    if not (arguments.yes or (chosen and _agreed("Destroy?"))):
        return 0
    for one in chosen:
        provider_named(arguments.provider, arguments.run_dir).destroy(one.id)
        sys.stdout.write(f"{one.id}: gone\n")
    return 0


def _agreed(question: str) -> bool:
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        raise BadInput("nobody is there to answer; --yes does it without asking") from None


def _deploy(arguments: argparse.Namespace) -> int:
    from flows.prefect.server import quiet_prefect

    quiet_prefect()
    from flows.cli.views.status import echo
    from flows.prefect.deploy import deploy

    deploy(
        echo,
        dry_run=arguments.dry_run,
        retry_after_s=arguments.retry_after,
        vanished_after_s=arguments.vanished_after,
        notify=arguments.notify,
    )
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from flows.prefect.server import quiet_prefect

    quiet_prefect()
    from flows.cli.views.status import echo
    from flows.prefect.watch import watch

    watch(echo, every_s=arguments.every, patience_s=arguments.patience, once=arguments.once)
    return 0


def _sync(arguments: argparse.Namespace) -> int:
    from flows.requests.job import find_config
    from tasks.services.run.paths import RunDir
    from tasks.services.stages.sync import upload_missing
    from ups_models.config.loading import load_config
    from ups_models.config.schema import PipelineConfig

    cfg = load_config(find_config(arguments.config), arguments.set, schema=PipelineConfig)
    _log_to_stderr()
    sys.stdout.write(f"Sent to {upload_missing(cfg, RunDir.of(arguments.run_dir, cfg.checkpoint.dir))}\n")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from tasks.services.run.paths import RunDir
    from tasks.services.stages.reporting import write_report

    sys.stdout.write(f"Report: {write_report(RunDir.of(arguments.run_dir, Path('checkpoints')))}\n")
    return 0


def _data_generate(arguments: argparse.Namespace) -> int:
    wanted, other = ("nu", "beta") if arguments.family == "burgers1d" else ("beta", "nu")
    if getattr(arguments, other) is not None:
        raise BadInput(f"--{other}: {arguments.family} has no {other}; give --{wanted}")
    _require_writable(arguments.out)
    defaults = {"burgers1d": (0.01, 256), "advection1d": (0.1, 256), "darcy2d": (1.0, 32)}
    parameter, nx = defaults[arguments.family]
    _log_to_stderr()
    from tasks.services.run.progress import progress_of
    from ups_models.data.pdebench import generate

    given = getattr(arguments, wanted)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with progress_of(arguments.out.name, arguments.n) as update:
        generate(
            arguments.family,
            arguments.out,
            n=arguments.n,
            seed=arguments.seed,
            parameter=parameter if given is None else given,
            nx=nx if arguments.nx is None else arguments.nx,
            nt=arguments.nt,
            t_end=arguments.t_end,
            on_progress=lambda done: update(done, "solved"),
        )
    sys.stdout.write(f"{arguments.out}\n")
    return 0


def _data_info(arguments: argparse.Namespace) -> int:
    from flows.cli.views.status import print_file_info
    from ups_models.data.pdebench import inspect

    print_file_info(inspect(arguments.file))
    return 0


def _no_command(arguments: argparse.Namespace) -> int:
    raise BadInput(f"{arguments}: name a command; see `ups --help`")


def _log_to_stderr() -> None:
    """Our own facts on stderr, whatever Prefect does with its logs; UPS_LOG=debug shows more."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    level = logging.getLevelNamesMapping().get(os.environ.get("UPS_LOG", "info").upper(), logging.INFO)
    from flows.prefect.server import LOGGERS

    for name in LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(handler)
        logger.propagate = False


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is at the moment: a progress bar replaces it to stay below the log lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        """The current stderr."""
        return sys.stderr
