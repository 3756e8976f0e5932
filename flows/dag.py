"""The one DAG: stages, evaluations, report, in plain Python. Prefect's flow, the harness and a script all run this."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tasks.services.data.datasets import require_named_files
from tasks.services.run.attempts import ChainRun, recorded
from tasks.services.run.config_file import is_kept, require_own_folder, write_config
from tasks.services.run.history import History
from tasks.services.run.lock import OWNER_PATIENCE_S, OwnedRun, owned
from tasks.services.run.own_files import keep_code
from tasks.services.run.signals import batch_signals_as_sigterm, redeliver_lost_signals
from tasks.services.run.status import StatusStore
from tasks.services.stages.deciding import decide, decide_evaluations, resumed_in_chain
from tasks.services.stages.descent import trained_config
from tasks.services.stages.execution import evaluate_if_needed, report_if_changed, require_networks, run_stage
from tasks.services.stages.job import Job
from tasks.services.stages.plan import Decision, EvaluationDecision, Plan, announce
from tasks.services.stages.snapshot import Snapshot, read_snapshot
from tasks.services.tracking.opening import tracked
from tasks.services.tracking.run_path import ResumeTarget
from tasks.services.tracking.tracker import LoggerFactory, Tracker
from ups_models.config.schema import PipelineConfig
from ups_models.errors import Preempted, RunLost
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)


class Steps(Protocol):
    """What the DAG is made of: each step does its work, or nothing, and says whether something changed."""

    def train(self, decision: Decision) -> bool:
        """Train, resume, adopt or skip a stage."""

    def evaluate(self, decision: EvaluationDecision) -> bool:
        """Run an evaluation, or skip it."""

    def report(self, *, changed: bool) -> Path:
        """The report, rendered again where something changed."""

    def snapshot(self) -> Snapshot:
        """What the run holds now."""


@dataclass(frozen=True)
class PlainSteps:
    """The steps as plain functions."""

    cfg: PipelineConfig
    run: OwnedRun
    tracker: Tracker

    def train(self, decision: Decision) -> bool:
        """In this process, as decided."""
        return run_stage(decision, self.cfg, self.run, self.tracker)

    def evaluate(self, decision: EvaluationDecision) -> bool:
        """In this process, as decided."""
        return evaluate_if_needed(decision, self.cfg, self.run)

    def report(self, *, changed: bool) -> Path:
        """Written, and handed to the tracker."""
        return report_if_changed(self.run, self.tracker, changed=changed)

    def snapshot(self) -> Snapshot:
        """Read once more."""
        return read_snapshot(self.cfg, self.run)


StepsFactory = Callable[[PipelineConfig, OwnedRun, Tracker], Steps]


def run_pipeline(plan: Plan, steps: Steps) -> Path:
    """Do what is planned, in order; returns the path of the HTML report.

    A failure of a stage that is optional is raised at the end: the others are evaluated all the same.
    """
    changed, failure = False, None
    for decision in plan.stages:
        try:
            changed |= steps.train(decision)
        except (Preempted, RunLost):
            raise
        except Exception as error:
            if not SPECS[decision.stage].optional:
                raise
            logger.warning("%s failed, and everything else is done all the same: %s", decision.stage, error)
            changed, failure = True, error
    evaluations = decide_evaluations(plan.job, steps.snapshot()) if changed else plan.evaluations
    for evaluation in evaluations:
        changed |= steps.evaluate(evaluation)
    report = steps.report(changed=changed)
    if failure is not None:
        raise failure
    return report


def run_job(
    job: Job,
    steps: StepsFactory = PlainSteps,
    *,
    resume: ResumeTarget | None = None,
    chain_run: ChainRun | None = None,
    loggers: Mapping[str, LoggerFactory] | None = None,
) -> Path:
    """Own the run, decide, announce, track, and run the DAG; returns the path of the HTML report.

    `loggers` get what is measured, beside W&B and the loggers that are installed.

    A run of a chain waits for another owner. Raises BadInput where the run is another process's, GaveUp and Duplicate
    where another run of the chain makes no sense, Preempted, and what the stages raise.
    """
    job.run.require_writable()
    require_own_folder(job.run, job.cfg)
    target = resume or ResumeTarget(allow_older=job.policy.force_train)
    patience_s = OWNER_PATIENCE_S if chain_run is not None else 0.0
    with (
        batch_signals_as_sigterm(),
        owned(job.run, patience_s=patience_s) as run,
        redeliver_lost_signals(),
        _recorded(run, chain_run),
    ):
        snapshot, chain = read_snapshot(job.cfg, run), chain_run.chain if chain_run is not None else None
        job = resumed_in_chain(job, snapshot.status.forced_by, chain_run)
        plan = decide(job, snapshot)
        require_named_files(
            job.cfg, run, SPECS if job.source is not None else plan.needs_data, job.evaluations.values()
        )
        require_networks(job.cfg, plan.trained)
        announce(plan)
        History(run).warn_of_strange(snapshot.status)
        _record_request(plan, run, snapshot, chain)
        with tracked(job.cfg, run, target, loggers) as tracker:
            return run_pipeline(plan, steps(job.cfg, run, tracker))


def _record_request(plan: Plan, run: OwnedRun, snapshot: Snapshot, chain: str | None) -> None:
    """Before anything changes: what was asked for, and which stages must start again even after a kill."""
    StatusStore(run).order_retraining(plan.retrain, chain if plan.job.policy.force_train else None)
    kept = {name: lineage for name, lineage in snapshot.lineages.items() if not plan.replaces(name)}
    cfg = trained_config(plan.job.cfg, kept)
    if not is_kept(run, cfg) or any(decision.runs for decision in plan.stages):
        write_config(run, cfg)
        keep_code(run, cfg)


@contextmanager
def _recorded(run: OwnedRun, chain_run: ChainRun | None) -> Iterator[None]:
    with recorded(run, chain_run) if chain_run is not None else nullcontext(0.0) as wait_s:
        if wait_s:
            logger.warning("the chain's runs before this one came no further: waiting %.0f s", wait_s)
            time.sleep(wait_s)
        yield
