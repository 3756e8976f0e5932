"""`ups evaluate`: evaluate checkpoint files."""

import argparse
from pathlib import Path

from flows.cli.arguments import add_path, add_set, require_writable
from flows.cli.views.console import echo
from flows.requests.job import find_config, require_device
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
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
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="config they were trained with")
    add_path(parser, "--eval-config", "what to evaluate", Path("configs/full_eval.yaml"))
    add_path(parser, "--data", "evaluate on every row of this PDEBench-layout file")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="overrides runtime.device")
    add_set(parser)
    add_path(parser, "--run-dir", "run whose data/ is used", Path(), metavar="DIR")
    add_path(parser, "--output-prefix", "PREFIX.json, .md, .html", Path("reports/evaluation"), metavar="PREFIX")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, then evaluate and print the headline."""
    device = [f"runtime.device={arguments.device}"] if arguments.device else []
    cfg = load_config(find_config(arguments.config), [*arguments.set, *device], schema=PipelineConfig)
    settings = load_config(find_config(arguments.eval_config), schema=EvalConfig)
    require_device(cfg)
    files = {stage: path for flag, stage in STAGES.items() if (path := getattr(arguments, flag)) is not None}
    if not files:
        raise BadInput("name a checkpoint to evaluate: --operator FILE, or --prior FILE for the steady prior alone")
    prefix: Path = arguments.output_prefix
    require_writable(prefix.with_name(prefix.name + ".json"))
    from tasks.services.stages.evaluating import evaluate_files, headline

    metrics = evaluate_files(cfg, settings, files, data_path=arguments.data, run_dir=arguments.run_dir, prefix=prefix)
    echo(f"{headline(metrics)}\nReport: {prefix}.html")
    return 0
