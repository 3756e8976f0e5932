"""The DAG as a Prefect flow: each step a task, the run a link of a chain, its state in Prefect's words."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: the packages beside flows/ are ours, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
if __name__ == "__main__":
    from flows.cli.main import main

    sys.exit(main(["train", *sys.argv[1:]]))

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows.dag import PlainSteps, run_job
from flows.plain import restored
from flows.prefect.artifacts import ArtifactLogger
from flows.prefect.chain import (
    BAD_INPUT,
    below_runs,
    chain_run_of,
    checked,
    ended,
    log_to_prefect,
    reported_when_back,
    run_name,
)
from flows.prefect.earlier import Elsewhere, with_earlier_runs, with_files
from flows.prefect.outcome import Engine
from flows.prefect.server import is_temporary
from flows.prefect.wishes import Unwanted, look_again_later, obeyed, refusal
from flows.requests.attempts import GROUP, TrainingAttempts, as_given
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from flows.restore import restore_checkpoints
from tasks.evaluate import evaluate
from tasks.report import report
from tasks.services.run.attempts import Duplicate, GaveUp
from tasks.services.run.lock import OWNER_PATIENCE_S
from tasks.services.stages.execution import report_is_current
from tasks.services.stages.job import Job
from tasks.services.stages.plan import Decision, EvaluationDecision
from tasks.services.tracking.run_path import ResumeTarget
from tasks.train import SKIPPED, train_stage
from ups_models.errors import BadInput


@dataclass(frozen=True)
class PrefectSteps(PlainSteps):
    """The steps as Prefect tasks; as plain functions once Prefect's engine has failed."""

    engine: Engine = field(default_factory=Engine)

    def train(self, decision: Decision) -> bool:
        """A task run named after the stage."""
        state = self.engine.run(train_stage, decision, self.cfg, self.run, self.tracker)
        return state is None or state.name != SKIPPED

    def evaluate(self, decision: EvaluationDecision) -> bool:
        """A task run named after the evaluation."""
        return self.engine.run(evaluate, decision, self.cfg, self.run) is None

    def report(self, *, changed: bool) -> Path:
        """A task run, where there is something to render."""
        if changed or not report_is_current(self.run):
            self.engine.run(report, self.run, self.tracker)
        return self.run.report


def _restored(job: Job, patience_s: float) -> ResumeTarget:
    def plainly() -> ResumeTarget:
        return restored(job, patience_s=patience_s)

    return Engine().run(restore_checkpoints, job, patience_s, plainly=plainly)  # type: ignore[no-any-return]


@flow(name="train-pipeline", flow_run_name=run_name, validate_parameters=False)
def train_pipeline(
    request: TrainRequest = TrainRequest(),  # noqa: B008 - it is frozen
    attempts: TrainingAttempts = TrainingAttempts(),  # noqa: B008
    attempt: int | None = None,
    max_attempts: int | None = None,
    max_attempts_per_day: int | None = None,
    chain: str | None = None,
) -> str | State:
    """Train what is missing, evaluate what changed, and return the path of the HTML report.

    Args:
        request: What to train and evaluate, and where.
        attempts: Which run of its chain this is, and how many there may be.
        attempt: As in attempts; in schedules made earlier.
        max_attempts: The same.
        max_attempts_per_day: The same.
        chain: The same.
    """
    log_to_prefect()
    earlier = {"attempt": attempt, "max_attempts": max_attempts, "max_attempts_per_day": max_attempts_per_day}
    with reported_when_back():
        return _train(request, as_given({GROUP: attempts, "chain": chain, **earlier}))


def _train(request: TrainRequest, attempts: Mapping[str, Any]) -> str | State:
    try:
        chain_run = chain_run_of(checked(TrainingAttempts, attempts, GROUP))
        if chain_run is not None:
            chain_run.check_limit()
        if (why := refusal(chain_run)) is not None:
            raise Unwanted(why)
        request = checked(TrainRequest, request)
        chain_run, earlier = with_earlier_runs(chain_run)
        job = with_files(parse(request.model_copy(update={"run_dir": below_runs(request.run_dir)})), earlier)
        patience_s = OWNER_PATIENCE_S if chain_run is not None else 0.0
        resume = _restored(job, patience_s) if job.source is not None else None
        loggers = {} if is_temporary() else {"Prefect": ArtifactLogger.of_flow_run}
        with obeyed():
            return str(run_job(job, PrefectSteps, resume=resume, chain_run=chain_run, loggers=loggers))
    except (GaveUp, Duplicate, Unwanted) as error:
        return ended(error)
    except Elsewhere as error:
        look_again_later(error)
    except BadInput as error:
        return Failed(name=BAD_INPUT, message=str(error), data=error)
