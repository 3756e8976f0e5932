"""Sending to W&B what it lacks of a run that was trained without it."""

from __future__ import annotations

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.reporting import report_payload
from tasks.services.tracking.wandb_tracking import ResumeTarget, open_online
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, UPSError
from ups_models.stages.spec import SPECS


def upload_missing(cfg: PipelineConfig, run: RunDir) -> str:
    """Rows, checkpoints and report, each as far as W&B does not have it; returns the run's address.

    Everything is read from the run's own files, so it may be done again. Raises BadInput for a folder without a run,
    TrackingUnavailable, and UPSError when the checkpoints did not arrive.
    """
    if not run.status.is_file():
        raise BadInput(f"{run.status}: no such file; name the folder of a run")
    _require_its_config(cfg, run)
    with owned(run) as own:
        tracker = open_online(cfg, own, ResumeTarget())
        started = [stage for stage, record in read_status(run.status).stages.items() if record.started_at]
        for stage in SPECS:
            if stage in started:
                tracker.begin(stage)
        if run.report.is_file():
            tracker.report(lambda: report_payload(run))
        tracker.uploads.add(*(stage for stage in SPECS if read_status(run.status).stage(stage).files))
        tracker.close(failed=False)
        status = read_status(run.status)
    upload = status.upload
    if upload is None or upload.signature != signature_of(status) or tracker.errors:
        reason = (upload.error_message if upload else None) or "some of it was not taken"
        raise UPSError(f"{run.root}: not everything reached W&B: {reason}; run `ups sync` again")
    return str(status.wandb.url if status.wandb else None)


def _require_its_config(cfg: PipelineConfig, run: RunDir) -> None:
    """Raise BadInput when the run was trained with another config: W&B would show that one as its own."""
    for stage, record in read_status(run.status).stages.items():
        if not SPECS[stage].is_config_hash(record.config_hash, cfg):
            raise BadInput(f"{run.root}: its stage {stage} was trained with another config; name that with --config")
