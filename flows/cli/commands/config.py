"""`ups config show|diff|docs`: a config as it is resolved, what differs between two, and what every key means."""

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from flows.cli.arguments import add_set
from flows.cli.views.config import difference_table, reference, values_of
from flows.cli.views.console import echo
from flows.requests.job import find_config
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig


def add(parser: argparse.ArgumentParser) -> None:
    """The commands below `ups config`."""
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="Print a config with every default.")
    show.add_argument("config", type=Path, help="config file")
    add_set(show)
    show.set_defaults(act=_show)
    diff = commands.add_parser("diff", help="Print the keys in which two configs differ, defaults included.")
    diff.add_argument("one", type=Path, help="config file, or config.yaml of a run")
    diff.add_argument("other", type=Path, help="the same")
    diff.set_defaults(act=_diff)
    docs = commands.add_parser("docs", help="Print every key with its default, bounds and meaning.")
    docs.add_argument("section", nargs="?", help="keys that begin so alone, such as stages.operator")
    docs.add_argument("--evaluation", action="store_true", help="of the configs of evaluations")
    docs.set_defaults(act=_docs)


def run(arguments: argparse.Namespace) -> int:
    """Show, compare, or explain."""
    act: Callable[[argparse.Namespace], str] = arguments.act
    echo(act(arguments))
    return 0


def _show(arguments: argparse.Namespace) -> str:
    cfg = load_config(find_config(arguments.config), arguments.set, schema=PipelineConfig)
    return str(yaml.safe_dump(values_of(cfg), sort_keys=False)).rstrip()


def _diff(arguments: argparse.Namespace) -> str:
    one, other = (load_config(find_config(path), schema=PipelineConfig) for path in (arguments.one, arguments.other))
    return difference_table(one, other, (str(arguments.one), str(arguments.other)))


def _docs(arguments: argparse.Namespace) -> str:
    return reference(EvalConfig if arguments.evaluation else PipelineConfig, arguments.section or "")
