"""Carrying out what was planned for a stage, with nothing imported that the plan does not need."""

from __future__ import annotations

from tasks.services.run.paths import RunDir
from tasks.services.run.signals import redeliver_pending
from tasks.services.stages.plan import Decision
from tasks.services.tracking.wandb_tracking import Tracker
from ups_models.config.schema import PipelineConfig


def run_stage(decision: Decision, cfg: PipelineConfig, run: RunDir, tracker: Tracker | None = None) -> bool:
    """Train, go on, adopt or leave a stage as decided; returns whether it trained.

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
