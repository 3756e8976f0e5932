"""What the flags of several commands share: types of values, defaults, and flags that they have in common."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from tasks.services.run.config_file import run_in
from tasks.services.run.paths import RunDir
from ups_models.errors import BadInput
from ups_models.wording import shown


def count(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above zero")
    return int(text)


def seed(text: str) -> int:
    """A whole number, zero included."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, zero or above")
    return int(text)


def positive(text: str) -> float:
    """A finite number above zero."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number above zero")
    return number


def named_number(text: str) -> tuple[str, float]:
    """NAME=VALUE, for a parameter of an equation. Raises BadInput."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise BadInput(f"--parameter {shown(text)}: write it as NAME=VALUE, for example nu=0.01") from None


def named_numbers(texts: Sequence[str]) -> dict[str, float]:
    """Several of these. Raises BadInput where one is given twice, in whatever case."""
    found: dict[str, float] = {}
    for name, value in map(named_number, texts):
        if name.lower() in map(str.lower, found):
            raise BadInput(f"--parameter {shown(name)}: is given twice")
        found[name] = value
    return found


def require_folder(path: Path) -> None:
    """Raise BadInput where there is no folder of launches: of a mistyped one nothing is said."""
    if not path.is_dir():
        raise BadInput(f"--run-dir {path}: is no folder; name one in which something was launched")


def require_writable(path: Path) -> None:
    """Raise BadInput when a file cannot be written there; creates nothing."""
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise BadInput(f"{path}: is a device or a pipe, which would be replaced; name a file")
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(f"{parent}: cannot be written; choose another folder for {path.name}")


def add_path(
    parser: argparse.ArgumentParser, flag: str, text: str, default: Path | None = None, *, metavar: str = "FILE"
) -> None:
    """A flag that names a file or a folder."""
    shown = text if default is None else f"{text} (default: {default})"
    parser.add_argument(flag, type=Path, default=default, metavar=metavar, help=shown)


def add_set(parser: argparse.ArgumentParser) -> None:
    """The flag that overrides values of a config."""
    text = "override a config value; may be given several times"
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=text)


def add_run(parser: argparse.ArgumentParser, flag: str | None = None) -> None:
    """Which run is meant: its directory, or its checkpoints; `flag` is another way to say it, of earlier versions."""
    text = "directory of the run, or its checkpoints (default: the current one)"
    parser.add_argument("named", nargs="?", type=Path, metavar="RUN", help=text)
    if flag is not None:
        parser.add_argument(flag, dest="flagged", type=Path, metavar="DIR", help="the same")


def run_named(arguments: argparse.Namespace) -> RunDir:
    """That run. Raises BadInput where there is none."""
    path = path_named(arguments)
    found = run_in(path)
    if found is None:
        raise BadInput(f"{path}: holds no run; name the folder of a run or its checkpoints, or begin one: ups train")
    return found


def path_named(arguments: argparse.Namespace) -> Path:
    """What was named as a run."""
    path: Path = arguments.named or getattr(arguments, "flagged", None) or Path()
    return path


def add_trust_code(parser: argparse.ArgumentParser) -> None:
    """The flag without which no code that came with a run is executed."""
    text = "execute this file of the code that came with the run, as my_net.py; may be given several times"
    parser.add_argument("--trust-code", action="append", default=[], metavar="FILE", help=text)


def add_target(parser: argparse.ArgumentParser, providers: Sequence[str]) -> None:
    """Which launch or machine is meant, and where it is looked for."""
    text = "a W&B run, or an instance; by default what was launched last from --run-dir"
    parser.add_argument("target", nargs="?", metavar="RUN|INSTANCE", help=text)
    add_place(parser, providers)


def add_place(parser: argparse.ArgumentParser, providers: Sequence[str]) -> None:
    """Where a launch is looked for, and who is asked about its machines."""
    add_path(parser, "--run-dir", "folder of the journal, or above it", Path(), metavar="DIR")
    text = "who rents the machine out (default: the one that the journal names, else vast)"
    parser.add_argument("--provider", choices=providers, help=text)
