"""`ups COMMAND ...`: the table of commands, exit codes, and the log on stderr."""

import argparse
import difflib
import logging
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

import argcomplete

from flows import PACKAGES
from flows.cli.runner import STOPPED_EARLY
from flows.cli.views.console import LogFormatter, complain, echo, flush, write_whatever_the_encoding
from tasks.services.run import environment
from tasks.services.run.signals import end_at_once_on_sigterm, treat_batch_signals_as_sigterm
from ups_models.errors import BadInput, UPSError
from ups_models.reading import remedy

DESCRIPTION = "Train and evaluate a latent PDE surrogate on machines that may vanish at any moment."
INTERRUPTED = 130
VERSION = "--version"
COMPLETION = "_ARGCOMPLETE"
"""Set by a shell that wants to know how a command line may go on: eval "$(register-python-argcomplete ups)"."""


@dataclass(frozen=True)
class Command:
    """What a command does, and whether it reports its progress on stderr."""

    summary: str
    logs: bool = False


COMMANDS = {
    "train": Command("Train the four stages and evaluate them.", logs=True),
    "status": Command("Show which stages are trained."),
    "runs": Command("List the runs below a folder: how far, how good, how old."),
    "compare": Command("Compare the figures of several runs, seeds together."),
    "promote": Command("Give a run an alias, if it is better than the run that holds it."),
    "sweep": Command("Train every point of a grid with several seeds, and compare them.", logs=True),
    "reproduce": Command("Make a committed row of results again, and compare.", logs=True),
    "sync": Command("Upload whatever W&B is missing from a run: rows, checkpoints, the report.", logs=True),
    "pull": Command("Bring checkpoints, evaluations, report and loss history of a W&B run here.", logs=True),
    "evaluate": Command("Evaluate checkpoint files.", logs=True),
    "launch": Command("Train on rented machines, and destroy them afterwards.", logs=True),
    "launches": Command("List what was launched: stage, step, machine, cost."),
    "logs": Command("Show what a rented machine writes."),
    "stop": Command("End a launch, and destroy its machines.", logs=True),
    "ssh": Command("Log in to a rented machine."),
    "cost": Command("Show what rented machines have cost, and what the account has left."),
    "instances": Command("List the machines that we rent."),
    "destroy": Command("Destroy rented machines."),
    "deploy": Command("Create or update work pool, deployments and automations on the Prefect server."),
    "watch": Command("Restart dead runs that the Prefect server's automations missed."),
    "clean": Command("Remove what a finished run does not need any more."),
    "predict": Command("Roll a trained surrogate out from fields in a file.", logs=True),
    "export": Command("Write a trained surrogate into one file."),
    "report": Command("Render reports/report.html again."),
    "config": Command("Show a config with its defaults, compare two, or explain every key."),
    "data": Command("Generate and inspect data files.", logs=True),
}
"""The module flows.cli.commands.NAME adds the flags of a command and runs it; it is imported when it is asked for."""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with what was probably meant."""

    flags: tuple[str, ...] = ()
    """Those of the command, which its own parser hands up as unrecognized."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}{_meant(message, self.flags)}; see `{self.prog} --help`")


def _meant(message: str, flags: Sequence[str]) -> str:
    """The nearest choice, or the nearest flag, to what argparse did not understand."""
    choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
    given, known = (choice[1], re.findall(r"'([^']*)'", choice[2])) if choice else ("", list(flags))
    if unknown := re.search(r"unrecognized arguments: (--[\w-]+)", message):
        given = unknown[1]
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 bad input, 75 preempted and resumable."""
    write_whatever_the_encoding()
    given = sys.argv[1:] if argv is None else list(argv)
    name = next((word for word in given if not word.startswith("-")), "")
    if name in STOPPED_EARLY:
        end_at_once_on_sigterm(STOPPED_EARLY[name])
        treat_batch_signals_as_sigterm()
    try:
        return _run(name, given)
    except UPSError as error:
        complain(error)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        advice = remedy(error) or "choose another path, or change its permissions"
        complain(f"{where}{error.strerror or error}; {advice}")
        return BadInput.exit_code
    except MemoryError:
        complain(f"{name}: the memory that is free is not enough; use smaller data or a smaller network")
        return UPSError.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    finally:
        flush()


def _run(name: str, given: list[str]) -> int:
    if environment.is_set(COMPLETION):
        typed = environment.get("COMP_LINE").split()
        argcomplete.autocomplete(build_parser(*(word for word in typed if word in COMMANDS)), exit_method=sys.exit)
    parser = build_parser(name)
    if given in ([], [VERSION]):
        echo(f"ups-pipeline {version('ups-pipeline')}" if given else parser.format_help().rstrip())
        return 0
    arguments = parser.parse_args(given)
    if COMMANDS[name].logs:
        _log_to_stderr()
    run: Callable[[argparse.Namespace], int] = arguments.run
    return run(arguments)


def build_parser(*names: str) -> argparse.ArgumentParser:
    """The parser of `ups`, with the flags of these commands; the others are listed."""
    parser = _Parser(prog="ups", description=DESCRIPTION)
    parser.add_argument(VERSION, action="store_true", help="show the version, and nothing else")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for known, command in COMMANDS.items():
        its_parser = commands.add_parser(known, help=command.summary, description=command.summary)
        if known in names:
            module = import_module(f"flows.cli.commands.{known}")
            module.add(its_parser)
            its_parser.set_defaults(run=module.run)
            parser.flags = tuple(its_parser._option_string_actions)  # argparse has no public name for them
    return parser


def _log_to_stderr() -> None:
    """Our own log on stderr, whatever Prefect does with its logs; UPS_LOG=debug shows more."""
    level = logging.getLevelNamesMapping().get(environment.get(environment.LOG, "info").upper(), logging.INFO)
    for name in PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.addHandler(_STDERR)
        logger.propagate = False


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what sys.stderr is at the moment: a progress bar replaces it to stay below the log lines."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(LogFormatter())

    @property
    def stream(self) -> Any:
        """The current stderr."""
        return sys.stderr


_STDERR = _Stderr()
