"""What a launch is held against before it begins, and what it goes on with; nothing is started here."""

import hashlib
import json
import logging
import time
from typing import Any

from flows.requests.job import configs_of, require_tracking, source_of
from flows.requests.launch import LaunchRequest, provider_of
from tasks.services.rental.budget import Budget
from tasks.services.rental.choosing.terms import Terms, at
from tasks.services.rental.claims import require_free
from tasks.services.rental.code import code_to_send
from tasks.services.rental.job import Published, require_portable_data
from tasks.services.rental.journal import Journal
from tasks.services.rental.lock import require_writable_journal
from tasks.services.run.status import StageRecord
from tasks.services.stages.execution import require_networks
from tasks.services.tracking.coordination import WandbCoordination, find_run
from tasks.services.tracking.protocols import ControllerRecord, TrackingUnavailable
from tasks.services.tracking.restoring import look_up
from tasks.services.tracking.run_path import RunPath
from tasks.services.tracking.store import WandbStore
from tasks.services.tracking.wandb_client import CLIENT, Client
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.stages.spec import SPECS

logger = logging.getLogger(__name__)


def budget_of(request: LaunchRequest, journal: Journal, run: str) -> Budget | None:
    """The budget that the launch shares, if it names one. Raises BadInput, ConfigError."""
    if request.budget_file is None:
        return None
    if journal.budget is not None and journal.budget[0] == request.budget_file.absolute():
        return Budget.of(*journal.budget)
    began = journal.started_at if journal.open_job is not None else time.time()
    return Budget.of(request.budget_file.absolute(), f"{run} of {at(began)}")


def noted_of(request: LaunchRequest, terms: Terms, budget: Budget | None) -> dict[str, Any]:
    """What the journal keeps of a launch beside its job, for whoever goes on with it."""
    noted: dict[str, Any] = {"asked": asked_by(request)}
    if request.deadline is not None:
        noted |= {"deadline": request.deadline, "deadline_at": terms.deadline}
    if budget is not None:
        noted["budget"] = {"file": str(budget.path), "launch": budget.launch}
    return noted


def asked_by(request: LaunchRequest) -> str:
    """A digest of what is to be trained: the configs with all settings, the stage, and the code where one is named."""
    cfg, evaluations = configs_of(request.train)
    settings = [cfg.model_dump(mode="json"), {name: one.model_dump(mode="json") for name, one in evaluations.items()}]
    text = json.dumps([settings, request.train.stage, request.code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_sound(request: LaunchRequest) -> None:
    """Raise BadInput or ProviderRefused for what can be known to be wrong before anything is started or contacted."""
    cfg, _ = configs_of(request.train)
    require_tracking(cfg.tracking, "ups launch")
    source = source_of(request.train, cfg)
    require_portable_data(cfg)
    require_networks(cfg, _stages_of(request, cfg))
    provider_of(request)
    require_writable_journal(request.journal_path)
    journal = Journal(request.journal_path)
    request.terms(cfg, journal, time.time())
    budget = Budget.of(request.budget_file, "") if request.budget_file is not None else None
    unfinished = journal.open_job
    if unfinished is not None:
        require_same_run(request, Published.parse(unfinished, cfg.tracking), source)
        require_same_launch(request, journal)
    elif budget is not None:
        budget.require(rents=False)


def is_new(request: LaunchRequest) -> bool:
    """Whether the launch will rent, whatever is found: no run is resumed, and no launch goes on."""
    return not request.train.resume_from_wandb and Journal(request.journal_path).open_job is None


def require_found(request: LaunchRequest) -> RunPath | None:
    """Raise for what a launch refuses once it asks: no such W&B run, no such code. Changes nothing anywhere.

    Returns the run where nothing of it is left to do.
    """
    cfg, _ = configs_of(request.train)
    source = source_of(request.train, cfg)
    if source is not None:
        look_up(source, request.train.resume_mode, cfg)
    journal = Journal(request.journal_path)
    if (complete := complete_run(request, journal, cfg)) is not None:
        return complete
    claim_on(request, journal, cfg)
    with code_to_send(request.code):
        return None


def claim_on(
    request: LaunchRequest, journal: Journal, cfg: PipelineConfig, client: Client = CLIENT
) -> ControllerRecord | None:
    """What the run that is to be resumed says of its last controller; None for a new run.

    Raises BadInput where that one is at work, and is not to be taken over.
    """
    path = resumed_run(request, journal, cfg)
    try:
        found = find_run(path, cfg.tracking, client) if path is not None else None
        run = WandbCoordination(found.path, cfg.tracking, client) if found is not None else None
        record = run.progress().controller if run is not None else None
    except TrackingUnavailable as error:
        if journal.open_job is None:
            raise
        logger.warning("%s: whether another launch works on it is not known", error)
        return None
    require_free(str(path), record, journal.controllers, takeover=request.takeover)
    return record


def resumed_run(request: LaunchRequest, journal: Journal, cfg: PipelineConfig) -> RunPath | None:
    """The W&B run that a launch would go on with; None for a new one."""
    if journal.open_job is not None:
        return Published.parse(journal.open_job, cfg.tracking).path
    return source_of(request.train, cfg) if request.train.resume_mode != "never" else None


def complete_run(
    request: LaunchRequest, journal: Journal, cfg: PipelineConfig, client: Client = CLIENT
) -> RunPath | None:
    """The run that is to be resumed, where nothing of it is left to do. Raises TrackingUnavailable, StatusError."""
    path = resumed_run(request, journal, cfg) if journal.open_job is None else None
    found = find_run(path, cfg.tracking, client) if path is not None else None
    if found is None:
        return None
    progress = WandbCoordination(found.path, cfg.tracking, client).progress()
    status = WandbStore(found.path, cfg.tracking, client).status()
    ended_well = progress.outcome[1] == 0 if progress.outcome is not None else progress.state == "finished"
    if status is None or not ended_well:
        return None
    return found.path if all(_is_done(status.stage(name), name, cfg) for name in _stages_of(request, cfg)) else None


def _stages_of(request: LaunchRequest, cfg: PipelineConfig) -> list[str]:
    """The stages that are trained when nothing is left to do."""
    return [name for name in SPECS if cfg.stages.of(name).epochs > 0 and request.train.stage in ("all", name)]


def _is_done(record: StageRecord, stage: str, cfg: PipelineConfig) -> bool:
    return record.status == "completed" and SPECS[stage].is_config_hash(record.config_hash, cfg)


def require_same_launch(request: LaunchRequest, journal: Journal) -> None:
    """Raise BadInput where the launch that goes on rents elsewhere, or trains something else, than what is asked."""
    if journal.open_job is None:
        return
    before, advice = f"{request.journal_path}: the launch that was stopped before its end", "or end it first: ups stop"
    if journal.provider not in ("", request.providers):
        raise BadInput(f"{before} rents from {journal.provider}: launch with that --provider and --also, {advice}")
    if journal.asked not in ("", asked_by(request)):
        raise BadInput(
            f"{before} trains another config, stage or code than this command asks for: launch with the same, {advice}"
        )


def require_same_run(request: LaunchRequest, unfinished: Published, source: RunPath | None) -> None:
    """Raise BadInput where a launch that was stopped before its end is of another run than the one asked for."""
    if source is not None and source.id != unfinished.path.id:
        raise BadInput(
            f"{request.journal_path}: the launch of run {unfinished.path} was stopped before its end and comes "
            "first: launch without --resume-from-wandb to resume it, or choose another --run-dir"
        )
