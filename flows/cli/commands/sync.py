"""`ups sync`: upload whatever W&B is missing from a run."""

import argparse

from flows.cli.arguments import add_path, add_run, add_set, add_trust_code, path_named, run_named
from flows.cli.views.console import echo
from flows.requests.job import config_of_run
from tasks.services.run.config_file import run_in
from tasks.services.run.own_files import trust_code
from tasks.services.run.paths import RunDir
from tasks.services.tracking.run_path import has_key
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput


def add(parser: argparse.ArgumentParser) -> None:
    """The run, and the config that says where it is tracked."""
    add_run(parser)
    add_path(parser, "--config", "config it was trained with (default: the one that the run keeps)")
    add_set(parser)
    add_trust_code(parser)


def run(arguments: argparse.Namespace) -> int:
    """Upload rows, checkpoints and report."""
    if (named := run_in(path_named(arguments))) is not None:
        trust_code(named.code, named.status, arguments.trust_code)
    cfg = load_config(config_of_run(arguments.config, path_named(arguments)), arguments.set, schema=PipelineConfig)
    root = run_named(arguments).root
    if not has_key():
        raise BadInput("W&B cannot be asked without a key: put it into WANDB_API_KEY, or log in with `wandb login`")
    from tasks.services.stages.sync import upload_missing

    echo(f"Uploaded to {upload_missing(cfg, RunDir.of(root, cfg.checkpoint.dir))}")
    return 0
