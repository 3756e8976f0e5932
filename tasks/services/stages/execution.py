"""Doing what was planned, with nothing imported that the plan does not need."""

from __future__ import annotations

from pathlib import Path

from tasks.services.run.lock import OwnedRun
from tasks.services.run.signals import redeliver_pending
from tasks.services.stages.plan import Decision, EvaluationDecision
from tasks.services.tracking.tracker import Tracker
from ups_models.config.schema import PipelineConfig


def run_stage(decision: Decision, cfg: PipelineConfig, run: OwnedRun, tracker: Tracker | None = None) -> bool:
    """Train, resume, adopt or leave a stage as decided; returns whether it trained.

    Raises what training raises. A skipped stage imports no PyTorch.
    """
    redeliver_pending()
    if decision.runs:
        from tasks.services.stages.training import train_stage_files

        train_stage_files(decision.stage, cfg, run, fresh=decision.action == "train", tracker=tracker or Tracker())
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
    from tasks.services.stages.evaluating import evaluate_run

    evaluate_run(decision.name, cfg, decision.settings, run)
    return True


def report_if_changed(run: OwnedRun, tracker: Tracker, *, changed: bool) -> Path:
    """The HTML report, rendered and handed to the tracker where something changed; its path."""
    if changed or not run.report.exists():
        from tasks.services.stages.evaluating import reported, write_report

        write_report(run)
        tracker.report(lambda: reported(run))
    return run.report
