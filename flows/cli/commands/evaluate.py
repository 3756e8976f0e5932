"""`ups evaluate`: evaluate checkpoint files."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from flows.cli.arguments import add_path, add_set, add_trust_code, require_writable
from flows.cli.views.console import echo
from flows.requests.job import find_config, require_device, settings_of
from tasks.services.run.config_file import kept_config
from tasks.services.run.own_files import trust_code
from tasks.services.run.paths import RunDir
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput

STAGES = {
    "operator": "operator",
    "diffusion": "diff_residual",
    "student": "consistency_distill",
    "prior": "steady_prior",
}
"""By flag: the stage whose checkpoint it names."""


def add(parser: argparse.ArgumentParser) -> None:
    """The checkpoints, on what to evaluate them, and where to write the result."""
    for flag, stage in STAGES.items():
        add_path(parser, f"--{flag}", f"checkpoint of stage {stage}")
    add_path(parser, "--config", "config they were trained with (default: the one that their run keeps)")
    add_path(parser, "--eval-config", "what to evaluate", Path("configs/full_eval.yaml"))
    add_trust_code(parser)
    add_path(parser, "--data", "evaluate on every row of this file")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="overrides runtime.device")
    add_set(parser)
    add_path(parser, "--run-dir", "run whose data/ is used", Path(), metavar="DIR")
    add_path(parser, "--output-prefix", "PREFIX.json, .md, .html", Path("reports/evaluation"), metavar="PREFIX")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then evaluate and print the headline."""
    device = [f"runtime.device={arguments.device}"] if arguments.device else []
    files = {stage: path for flag, stage in STAGES.items() if (path := getattr(arguments, flag)) is not None}
    if not files:
        raise BadInput("name a checkpoint to evaluate: --operator FILE, or --prior FILE for the steady prior alone")
    if "operator" not in files and set(files) != {"steady_prior"}:
        raise BadInput("a diffusion or a student samples what the operator leaves out: name its --operator FILE too")
    config = _config(arguments, files)
    run = RunDir.of(config.parent, Path("checkpoints"))
    trust_code(run.code, run.status, arguments.trust_code)
    cfg = load_config(config, [*arguments.set, *device], schema=PipelineConfig)
    settings = settings_of(cfg, "full_eval", arguments.eval_config)
    require_device(cfg)
    prefix: Path = arguments.output_prefix
    require_writable(prefix.with_name(prefix.name + ".json"))
    from tasks.services.stages.evaluating import evaluate_files, headline

    result = evaluate_files(cfg, settings, files, data_path=arguments.data, run_dir=arguments.run_dir, prefix=prefix)
    echo(f"{headline(result)}\nReport: {prefix}.html")
    return 0


def _config(arguments: argparse.Namespace, files: Mapping[str, Path]) -> Path:
    """The config that was given, or the one beside the folder of the first checkpoint. Raises BadInput."""
    if arguments.config is not None:
        return find_config(arguments.config)
    for folder in (next(iter(files.values())).absolute().parent.parent, arguments.run_dir):
        kept = kept_config(RunDir.of(folder, Path()))
        if kept is not None:
            return kept
    raise BadInput(f"{folder}: keeps no config.yaml of a run; name the config they were trained with: --config FILE")
