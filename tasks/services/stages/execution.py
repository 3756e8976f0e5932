"""Doing what was planned, with nothing imported that the plan does not need."""

import hashlib
from collections.abc import Collection
from pathlib import Path

from tasks.services.checkpoints.sets import signature_of
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.phase import announce
from tasks.services.run.signals import redeliver_pending
from tasks.services.run.status import EVALUATIONS, StatusStore, read_status
from tasks.services.run.uninterrupted import uninterrupted
from tasks.services.stages.plan import Decision, EvaluationDecision
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.files import known_digest


def require_networks(cfg: PipelineConfig, stages: Collection[str]) -> None:
    """Try the user's own networks before a stage trains that may be the first of four. Raises BadInput."""
    stages = [name for name in stages if cfg.stages.of(name).epochs > 0]
    if stages and any(net.network is not None for net in (cfg.operator, cfg.denoiser, cfg.prior)):
        from tasks.services.stages.inputs import require_own_networks

        require_own_networks(cfg, stages)


def run_stage(decision: Decision, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker | None = None) -> bool:
    """Train, resume, adopt or leave a stage as decided; returns whether it trained.

    Raises what training raises. A skipped stage imports no PyTorch.
    """
    redeliver_pending()
    if decision.runs:
        uninterrupted(lambda _: _train(decision, cfg, run, tracker or Tracker()))
        return True
    if decision.action == "adopt":
        from tasks.services.stages.training import adopt_stage_files

        adopt_stage_files(decision.stage, cfg, run)
    if decision.action != "disabled":
        run.forget_saved_states(decision.stage)  # a crash may have come between completion and this
    return False


def evaluate_if_needed(decision: EvaluationDecision, cfg: PipelineConfig, run: OwnedRun) -> bool:
    """Run an evaluation as decided; returns whether it ran. A skipped one imports no PyTorch."""
    if not decision.run:
        return False
    redeliver_pending()
    uninterrupted(lambda _: _evaluate(decision, cfg, run))
    return True


def _train(decision: Decision, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker) -> None:
    """PyTorch is imported here, where nothing can interrupt that."""
    from tasks.services.stages.training import train_stage_files

    train_stage_files(decision.stage, cfg, run, fresh=decision.action == "train", tracker=tracker)


def _evaluate(decision: EvaluationDecision, cfg: PipelineConfig, run: OwnedRun) -> None:
    """As above."""
    from tasks.services.stages.evaluating import evaluate_run

    evaluate_run(decision.name, cfg, decision.settings, run)


def report_if_changed(run: OwnedRun, tracker: Tracker, *, changed: bool) -> Path:
    """The HTML report, rendered and handed to the tracker where something changed; its path."""
    announce("evaluation")
    if changed or not report_is_current(run):
        from tasks.services.stages.reporting import report_payload, write_report

        StatusStore(run).record_report(known_digest(write_report(run)), _report_sources(run))
        tracker.report(lambda: report_payload(run))
    return run.report


def report_is_current(run: RunDir) -> bool:
    """Whether the report that lies in the run is the one that was made from what lies there now."""
    record = read_status(run.status).report
    if record is None or not run.report.is_file():
        return False
    return known_digest(run.report) == record.digest and record.made_from == _report_sources(run)


def _report_sources(run: RunDir) -> str:
    """Identifies what a report shows: the stages, the evaluations, the loss history."""
    files = [run.history, *(run.result(name, suffix) for name in EVALUATIONS for suffix in (".json", ".npz"))]
    parts = [signature_of(read_status(run.status)), *(known_digest(path).sha256 for path in files if path.is_file())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
