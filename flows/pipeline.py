"""The pipeline as one flow: four stages, two evaluations, a report."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

if not __package__:  # started as a script: the packages beside flows/ are ours, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
if __name__ == "__main__":
    from flows.cli.main import main

    sys.exit(main(["train", *sys.argv[1:]]))

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Failed
from pydantic import Field

from flows.prefect.artifacts import with_artifacts
from flows.prefect.chain import BAD_INPUT, MAX_ATTEMPTS, chain_run_of, checked, ended, log_to_prefect, run_name
from flows.prefect.server import is_temporary
from flows.requests.train import TrainRequest, resolve
from flows.restore import restore_checkpoints
from tasks.evaluate import evaluate, newest_report
from tasks.services.run.attempts import ChainRun, Duplicate, GaveUp, recorded
from tasks.services.run.paths import RunDir, owned, wait_until_free
from tasks.services.run.signals import redeliver_lost_signals
from tasks.services.stages.plan import announce, plan, plan_evaluation
from tasks.services.tracking.wandb_tracking import ResumeTarget, Tracker, tracked
from tasks.train import train_stage
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput

logger = logging.getLogger(__name__)


@flow(name="train-pipeline", flow_run_name=run_name, validate_parameters=False)
def train_pipeline(
    request: TrainRequest = TrainRequest(),  # noqa: B008 - it is frozen
    attempt: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 1,
    max_attempts: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 100,
    max_attempts_per_day: Annotated[int, Field(ge=1, le=MAX_ATTEMPTS)] = 30,
    chain: str | None = None,
) -> str | State:
    """Train what is missing, evaluate what changed, and return the path of the HTML report.

    Args:
        request: What to train and evaluate, and where.
        attempt: Counts the runs of a chain, each begun by itself after the one before died.
        max_attempts: Give up after so many runs of a chain.
        max_attempts_per_day: Give up after so many runs of a chain in 24 hours.
        chain: Names the chain; empty: this run begins one.
    """
    log_to_prefect()
    try:
        this = chain_run_of(chain, attempt, max_attempts, max_attempts_per_day)
        return run_pipeline(checked(TrainRequest, request), this)
    except (GaveUp, Duplicate) as error:
        return ended(error)
    except BadInput as error:
        return Failed(name=BAD_INPUT, message=str(error), data=error)


def run_pipeline(request: TrainRequest, attempt: ChainRun | None) -> str:
    """The pipeline itself, under a flow. Raises GaveUp where another attempt makes no sense."""
    if attempt is not None:
        attempt.check_limit()
    job = resolve(request)
    if attempt is not None and attempt.has_predecessor:
        wait_until_free(job.run)
    resume = restore_checkpoints(request) if job.source is not None else ResumeTarget(allow_older=request.force_train)
    changed = False
    with owned(job.run), redeliver_lost_signals(), _counted(job.run, attempt):
        decisions = [] if job.skip_training else plan(job.cfg, job.run, job.policy)
        announce(decisions)
        with tracked(job.cfg, job.run, resume) as quiet, _shown(quiet, job.cfg, job.run) as tracker:
            for decision in decisions:
                changed |= train_stage(decision, job.cfg, job.run, tracker) is None
            for name, settings in job.evaluations.items():
                todo = plan_evaluation(name, settings, job.cfg, job.run, redo=name in job.redo)
                changed |= evaluate(todo, job.cfg, job.run) is None
            return str(newest_report(job.run, tracker, changed=changed))


def _shown(tracker: Tracker, cfg: PipelineConfig, run: RunDir) -> AbstractContextManager[Tracker]:
    return nullcontext(tracker) if is_temporary() else with_artifacts(tracker, cfg, run)


@contextmanager
def _counted(run: RunDir, attempt: ChainRun | None) -> Iterator[None]:
    if attempt is None:
        yield
        return
    with recorded(run, attempt) as wait_s:
        if wait_s:
            logger.warning("the attempts before came no further: waiting %.0f s", wait_s)
            time.sleep(wait_s)
        yield
