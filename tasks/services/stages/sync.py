"""Uploading to W&B whatever it is missing from a run that was trained without it."""

from __future__ import annotations

from tasks.services.checkpoints.uploads import why_missing
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.evaluating import reported
from tasks.services.tracking.opening import open_online
from tasks.services.tracking.run_path import ResumeTarget
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, UPSError
from ups_models.stages.spec import SPECS


def upload_missing(cfg: PipelineConfig, run: RunDir) -> str:
    """Upload rows, checkpoints and report as far as W&B does not have them; returns the run's address.

    Everything is read from the run's own files, so it may be repeated. Raises BadInput for a folder without a run,
    TrackingUnavailable, and UPSError when something did not arrive.
    """
    if not run.status.is_file():
        raise BadInput(f"{run.status}: no such file; name the folder of a run")
    require_its_config(cfg, run)
    with owned(run) as own:
        tracker = open_online(cfg, own, ResumeTarget())
        started = [stage for stage, record in read_status(run.status).stages.items() if record.started_at]
        for stage in SPECS:
            if stage in started:
                tracker.begin(stage)
        if run.report.is_file():
            tracker.report(lambda: reported(run))
        tracker.completed(*(stage for stage in SPECS if read_status(run.status).stage(stage).files))
        tracker.close(failed=False)
        status = read_status(run.status)
    reason = why_missing(status) or ("W&B did not take all rows" if tracker.errors else None)
    if reason is not None:
        raise UPSError(f"{run.root}: not everything reached W&B: {reason}; run `ups sync` again")
    return str(status.wandb.url if status.wandb else None)


def require_its_config(cfg: PipelineConfig, run: RunDir) -> None:
    """Raise BadInput when the run was trained with another config: W&B would show that one as its own."""
    for stage, record in read_status(run.status).stages.items():
        if not SPECS[stage].is_config_hash(record.config_hash, cfg):
            raise BadInput(f"{run.root}: its stage {stage} was trained with another config; name that with --config")
