"""The pipeline as one flow: four stages, two evaluations, a report."""

import sys
from pathlib import Path

if not __package__:  # started as a script: the packages beside flows/ are ours, whatever is installed
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
if __name__ == "__main__":
    from flows.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from flows.remote import restore_checkpoints
from flows.request import TrainRequest, resolve
from tasks.evaluate import evaluate, render_report
from tasks.services.planning import announce, plan, plan_evaluation
from tasks.services.run_dir import owned
from tasks.services.signals import heeded
from tasks.services.tracking import Continuation, tracked
from tasks.train import train_stage

GAVE_UP = "GaveUp"


@flow(name="train-pipeline", flow_run_name="{request.config.stem} · attempt {attempt}", validate_parameters=True)
def train_pipeline(
    request: TrainRequest = TrainRequest(),  # noqa: B008 - it is frozen
    attempt: int = 1,
    max_attempts: int = 20,
) -> str | State:
    """Train what is missing, evaluate what changed, and return the path of the HTML report.

    `attempt` counts the runs of a chain that began anew after each crash; beyond `max_attempts` it gives up.
    """
    if attempt > max_attempts:
        return Cancelled(name=GAVE_UP, message=f"{max_attempts} attempts crashed; look at the last one's logs")
    job = resolve(request)
    goes_on = (
        restore_checkpoints(request) if job.source is not None else Continuation(may_be_behind=request.force_train)
    )
    changed = False
    with owned(job.run), heeded():
        decisions = [] if job.skip_training else plan(job.cfg, job.run, job.policy)
        announce(decisions)
        with tracked(job.cfg, job.run, goes_on) as tracker:
            for decision in decisions:
                changed |= train_stage(decision, job.cfg, job.run, tracker) is None
            for name, settings in job.evaluations.items():
                todo = plan_evaluation(name, settings, job.cfg, job.run, redo=name in job.redo)
                changed |= evaluate(todo, job.cfg, job.run) is None
            return str(render_report(job.run, tracker, changed=changed))
