"""The flow train-on-vast: rent machines, train on them to the end, destroy them."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from prefect import Flow, flow
from prefect.client.schemas.objects import FlowRun, State

from flows.prefect.artifacts import RemoteStages, artifact_sender
from flows.prefect.chain import below_runs, chain_run_of, checked, ended, log_to_prefect, remote_name
from flows.prefect.server import is_temporary
from flows.prefect.wishes import Unwanted, refusal
from flows.requests.attempts import GROUP, Attempts, as_given
from flows.requests.job import configs_of, require_tracking, source_of
from flows.requests.launch import LaunchRequest, provider_of
from flows.requests.launch_checks import (
    budget_of,
    claim_on,
    complete_run,
    noted_of,
    require_same_launch,
    require_same_run,
)
from tasks.services.rental.bundle import onstart
from tasks.services.rental.claims import new_claim
from tasks.services.rental.code import code_to_send
from tasks.services.rental.controller import Controller, Show
from tasks.services.rental.fleet import Fleet, label_prefix, name_kept
from tasks.services.rental.job import WANDB_KEY, Published, RemoteJob, publish
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import paces_beside
from tasks.services.rental.lock import exclusive_controller, require_writable_journal
from tasks.services.rental.notices import noticed
from tasks.services.rental.provider import Provider
from tasks.services.rental.view import view
from tasks.services.run.attempts import ChainRun, Duplicate, GaveUp
from tasks.services.tracking.coordination import alert
from tasks.services.tracking.protocols import ControllerRecord
from tasks.services.tracking.run_path import RunPath
from ups_models.config.schema import PipelineConfig

logger = logging.getLogger(__name__)

JOB_KEYS = frozenset({"run", "artifact", "digest"})
"""What a claim must say of a job that is gone on with."""
Listener = Callable[[RemoteJob, PipelineConfig], Show]
"""Makes something else that is shown how a job proceeds."""


def destroy_when_cancelled(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect's worker calls this once the process of a cancelled run is gone, however it went."""
    request = checked(LaunchRequest, flow_run.parameters["request"])
    destroy_rented(request.model_copy(update={"run_dir": below_runs(request.run_dir, flow_run.deployment_id)}))


@flow(
    name="train-on-vast",
    flow_run_name=remote_name,
    validate_parameters=False,
    on_cancellation=[destroy_when_cancelled],
)
def train_on_vast(
    request: LaunchRequest,
    attempts: Attempts = Attempts(),  # noqa: B008 - it is frozen
    attempt: int | None = None,
    max_attempts: int | None = None,
    chain: str | None = None,
) -> str | State:
    """Train on rented machines to the end, whatever becomes of them; returns the W&B run.

    Args:
        request: What to train, on which machines, for how much.
        attempts: Which controller of its chain this is, and how many there may be.
        attempt: As in attempts; in schedules made earlier.
        max_attempts: The same.
        chain: The same.
    """
    log_to_prefect()
    given = as_given({GROUP: attempts, "attempt": attempt, "max_attempts": max_attempts, "chain": chain})
    this = chain_run_of(checked(Attempts, given, GROUP))
    request = checked(LaunchRequest, request)
    request = request.model_copy(update={"run_dir": below_runs(request.run_dir)})
    try:
        if (why := refusal(this)) is not None:
            destroy_rented(request)
            raise Unwanted(why)
        if is_temporary():
            return str(run_launch(request, attempt=this))
        with artifact_sender(request.run_dir) as sender:
            return str(run_launch(request, lambda job, cfg: RemoteStages(sender, cfg, job.status), this))
    except (GaveUp, Duplicate, Unwanted) as error:
        return ended(error)


def run_launch(request: LaunchRequest, listener: Listener | None = None, attempt: ChainRun | None = None) -> RunPath:
    """Rent, train, destroy; returns the run when the training is complete.

    Raises GaveUp and Duplicate where another attempt makes no sense; what the ones before rented is destroyed then.
    """
    require_writable_journal(request.journal_path)
    provider = provider_of(request)
    with exclusive_controller(request.journal_path, wait_s=math.inf if attempt is not None else 0.0):
        journal = Journal(request.journal_path)
        require_same_launch(request, journal)
        if attempt is not None:
            journal.join(attempt)
            if journal.open_job is None:
                attempt.check_limit()
        cfg, _ = configs_of(request.train)
        if (complete := complete_run(request, journal, cfg)) is not None:
            logger.info("run %s is complete: nothing is rented for it; bring it here with `ups pull`", complete)
            return complete
        name_kept(provider, request.providers, journal)
        before = claim_on(request, journal, cfg)
        left = _left_elsewhere(before, provider, journal)
        job = job_of(request, provider, journal.open_job or left)
        claim = new_claim(job, before, job.identity(), journal.controllers)
        journal.note("claims", controller=claim.record.id)
        claim.take()
        logger.info("run %s; if this launch is stopped: --resume-from-wandb %s", job.path, job.path)
        with view(cfg, str(job.path), request.max_total_cost) as panel:
            show = panel if listener is None else _both(panel, listener(job, cfg))
            controller = controller_of(request, provider, job, journal, cfg)
            controller.show, controller.claim, controller.adopt_unknown = show, claim, left is not None
            if attempt is not None and attempt.exceeds_limit:
                controller.give_up()
                attempt.check_limit()
            with noticed(request.notify, str(job.path), journal, alert=partial(alert, job.path, cfg.tracking)):
                controller.run()
    return job.path


def controller_of(
    request: LaunchRequest, provider: Provider, job: RemoteJob, journal: Journal, cfg: PipelineConfig
) -> Controller:
    """The controller of a launch that has its job. Raises BadInput for a deadline or a budget that is none."""
    terms = request.terms(cfg, journal, time.time())
    budget = budget_of(request, journal, str(job.path))
    return Controller(
        provider,
        request.machine(),
        job,
        onstart(),
        journal,
        request.limits(),
        keep_on_failure=request.keep_on_failure,
        auto_shutdown=request.auto_shutdown,
        provider_name=request.providers,
        terms=terms,
        others=paces_beside(request.journal_path),
        noted=noted_of(request, terms, budget),
        budget=budget,
    )


def _left_elsewhere(before: ControllerRecord | None, provider: Provider, journal: Journal) -> Mapping[str, str] | None:
    """The job whose machines another controller has left, or is made to leave."""
    if before is None or not before.seen_at or journal.open_job is not None or not before.job.keys() >= JOB_KEYS:
        return None
    return before.job if provider.list_instances(label_prefix(before.job["run"])) else None


def destroy_rented(request: LaunchRequest) -> None:
    """Destroy what an unfinished launch still rents; it stays open, and a later start resumes it."""
    journal = Journal(request.journal_path)
    if journal.open_job is not None:
        run = journal.open_job["run"]
        with exclusive_controller(request.journal_path):
            Fleet(provider_of(request), Journal(request.journal_path), run, request.limits()).destroy_all()


def job_of(request: LaunchRequest, provider: Provider, unfinished: Mapping[str, str] | None) -> RemoteJob:
    """Pack the job and put it into its W&B run; nothing is rented yet.

    An unfinished launch resumes with its recorded job: one of its machines may still be writing to the run.
    """
    cfg, evaluations = configs_of(request.train)
    require_tracking(cfg.tracking, "ups launch")
    source = source_of(request.train, cfg)
    if unfinished is not None:
        published = Published.parse(unfinished, cfg.tracking)
        require_same_run(request, published, source)
        logger.warning("the launch of run %s was stopped before its end: going on with it", published.path)
    else:
        arguments = ["--stage", request.train.stage] if request.train.stage != "all" else []
        mode = request.train.resume_mode
        with code_to_send(request.code) as code:
            published = publish(cfg, evaluations, arguments, code=code, source=source, mode=mode)
    return RemoteJob(
        **vars(published),
        cfg=cfg.tracking,
        device=cfg.runtime.device,
        max_seconds=1 + int(request.max_hours * 3600),  # the controller, whose clock began earlier, comes first
        shutdown=request.shutdown,
        key_is_in_account=provider.has_account_variable(WANDB_KEY),
    )


def _both(one: Show, other: Show) -> Show:
    def show(state: str, facts: Mapping[str, Any]) -> None:
        one(state, facts)
        other(state, facts)

    return show
