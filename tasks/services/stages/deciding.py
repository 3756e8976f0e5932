"""What each stage and evaluation needs: to run, to resume, or nothing at all; and why. Pure: nothing is read here."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tasks.services.run.attempts import ChainRun
from tasks.services.run.status import StageRecord
from tasks.services.stages.descent import trained_config
from tasks.services.stages.job import Job
from tasks.services.stages.plan import Decision, EvaluationDecision, Plan
from tasks.services.stages.snapshot import Snapshot, changed_input, states_of
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput, CheckpointError
from ups_models.stages.fingerprint import evaluation_hash, is_evaluation_hash
from ups_models.stages.lineage import DATA, INIT, SEED, SPLIT, in_words
from ups_models.stages.spec import SPECS, StageSpec, check_architecture, dependants

NOT_NAMED = (
    "{status}: says that stage {stage} has not started, but {names} exist, and training would replace them. If that is "
    "meant, use --force-train --stage {stage}; else move them away, or name them in the status by hand"
)
STATUS_NOT_FOUND = (
    "Stage status file not found: {path} is missing, but {names} exist from before stage tracking. Two options: "
    "(1) start fresh with a new training run (another --run-dir, or --force-train to replace these files); "
    "(2) create {path} by hand from the checkpoints that exist"
)


def decide(job: Job, snapshot: Snapshot) -> Plan:
    """Decide for every stage and evaluation. Raises BadInput, ArchitectureMismatch, CheckpointError.

    A stage runs again when it must, and then so does every stage that depends on it. An evaluation is decided for good
    once training is done (`decide_evaluations`): before, it only says that it will run.
    """
    if job.policy.skip_training:
        _require_operator(job, snapshot)
        trained = tuple(name for name, spec in SPECS.items() if spec.checkpoint in snapshot.digests)
        return Plan(job, (), decide_evaluations(job, snapshot), trained, unknown_descents=snapshot.unknown_descents)
    stages = _decide_stages(job, snapshot)
    training = tuple(decision.stage for decision in stages if decision.runs)
    if training:
        evaluations = tuple(
            EvaluationDecision(name, True, "after training", settings) for name, settings in job.evaluations.items()
        )
    else:
        evaluations = decide_evaluations(job, snapshot)
    replaced = {decision.stage: decision.reason for decision in stages if decision.action == "train"}
    kept = tuple(name for name in snapshot.unknown_descents if name not in replaced)
    return Plan(job, stages, evaluations, training, _retrain(replaced, job, snapshot), kept)


def resumed_in_chain(job: Job, forced_by: str | None, chain_run: ChainRun | None) -> Job:
    """The job as a later run of a chain has it: it resumes, whatever the request said.

    --force-train replaces what was completed before the chain, once: what is still to be trained again for it stands in
    the stages' records.
    """
    if chain_run is None:
        return job
    forced = job.policy.force_train and forced_by != chain_run.chain
    resumes = job.policy.auto_resume or chain_run.has_predecessor or job.policy.force_train
    return replace(job, policy=replace(job.policy, force_train=forced, auto_resume=resumes and not forced))


def decide_evaluations(job: Job, snapshot: Snapshot) -> tuple[EvaluationDecision, ...]:
    """Decide for every evaluation: it is skipped while nothing it depends on has changed."""
    if not job.evaluations:
        return ()
    usable = usable_stages(job.cfg, job.run.checkpoints, snapshot)
    return tuple(_decide_evaluation(name, job, snapshot, usable) for name in job.evaluations)


def usable_stages(cfg: PipelineConfig, checkpoints: Path, snapshot: Snapshot) -> dict[str, str | None]:
    """Every completed stage, and why its checkpoint must not be used: None when it may.

    A checkpoint may be used when its files are what was saved, it learned from what the config and the run hold now,
    and so did everything it needs. Raises ArchitectureMismatch.
    """
    reasons: dict[str, str | None] = {}
    for name, spec in SPECS.items():
        record = snapshot.records[name]
        if record.status != "completed":
            continue
        if record.arch is not None:
            check_architecture(checkpoints / spec.checkpoint, record.arch, spec.arch(cfg))
        stale = {other for other in spec.needs if reasons.get(other, "not completed")}
        damage = _damage(checkpoints, spec, record, snapshot)
        reasons[name] = damage or record.retrain or _moved_input(spec, cfg, snapshot, stale)
    return reasons


def evaluation_inputs(
    cfg: PipelineConfig, settings: EvalConfig, snapshot: Snapshot, usable: Mapping[str, str | None]
) -> dict[str, str]:
    """What an evaluation's metrics depend on: every checkpoint in use, the data it was trained on, and both configs."""
    inputs = {}
    for name, reason in usable.items():
        file = SPECS[name].checkpoint
        if reason is None and file in snapshot.digests:
            inputs[file] = snapshot.digests[file].sha256
            inputs |= {f"{name} {key}": value for key, value in snapshot.inputs_of(name).items()}
    return inputs | {"config": evaluation_hash(trained_config(cfg, snapshot.lineages), settings)}


def _decide_stages(job: Job, snapshot: Snapshot) -> tuple[Decision, ...]:
    _require_permission(job, snapshot)
    moved: set[str] = set()
    decisions: list[Decision] = []
    for name, spec in SPECS.items():
        if not job.policy.selects(name):
            continue
        decision = _decide_stage(spec, job, snapshot, moved)
        if decision.runs:
            _require_inputs(spec, job, snapshot, decisions)
            moved.add(name)
        decisions.append(decision)
    return tuple(decisions)


def _decide_stage(spec: StageSpec, job: Job, snapshot: Snapshot, moved: set[str]) -> Decision:
    epochs, record = job.cfg.stages.of(spec.name).epochs, snapshot.records[spec.name]
    if job.policy.force_train and epochs:
        return Decision(spec.name, "train", "--force-train")
    if record.retrain is not None and epochs:
        return Decision(spec.name, "train", record.retrain, warn=True)
    if record.status == "completed":
        decision = _decide_completed(spec, job, snapshot, record, moved)
    elif epochs == 0:
        return Decision(spec.name, "disabled", f"stages.{spec.name}.epochs is 0")
    elif record.status == "not_started":
        decision = Decision(spec.name, "train", "not started yet")
    else:
        decision = _decide_unfinished(spec, job, snapshot, record, moved)
    if decision.action == "train" and epochs == 0:
        raise BadInput(
            f"stage {spec.name} must run again ({decision.reason}), but stages.{spec.name}.epochs is 0; give it epochs"
        )
    return decision


def _decide_completed(spec: StageSpec, job: Job, snapshot: Snapshot, record: StageRecord, moved: set[str]) -> Decision:
    checkpoints = job.run.checkpoints
    if record.arch is not None:
        check_architecture(checkpoints / spec.checkpoint, record.arch, spec.arch(job.cfg))
    cause = _damage(checkpoints, spec, record, snapshot) or _moved_upstream(spec, moved)
    if cause is None:
        cause = _moved_teacher(_require_same_origin(spec, job, snapshot))
    if cause is not None:
        return Decision(spec.name, "train", cause, warn=True)
    if record.files is None:
        return Decision(spec.name, "adopt", "completed, but its record names no digests: the file itself is checked")
    if job.cfg.stages.of(spec.name).epochs and not spec.is_config_hash(record.config_hash, job.cfg):
        return Decision(
            spec.name,
            "skip",
            "completed under other settings that shape no tensor (such as epochs or lr); "
            "--force-train trains it with the new ones",
            warn=True,
        )
    spoilt = _spoilt_beside(spec, record, snapshot)
    if spoilt is not None:
        reason = f"completed at {record.completed_at}; {checkpoints / spoilt}, which nothing depends on"
        return Decision(spec.name, "skip", reason, warn=True)
    return Decision(spec.name, "skip", f"completed at {record.completed_at}, files unchanged")


def _decide_unfinished(spec: StageSpec, job: Job, snapshot: Snapshot, record: StageRecord, moved: set[str]) -> Decision:
    cfg = job.cfg
    before = f"{record.status} at step {record.step or 0}"
    if record.error_message:
        before += f" ({record.error_message})"
    state = snapshot.states[spec.name]
    if state.exists and record.arch is not None:
        check_architecture(job.run.resume(spec.name), record.arch, spec.arch(cfg))
    cause = _moved_upstream(spec, moved)
    if cause is None and state.exists:
        cause = _moved_teacher(_require_same_origin(spec, job, snapshot))
    if cause is not None:
        return Decision(spec.name, "train", f"{before}; starts from the beginning: {cause}", warn=True)
    if state.exists and not spec.is_config_hash(record.config_hash, cfg):
        raise BadInput(
            f"{job.run.resume(spec.name)}: stage {spec.name} was interrupted under other settings; "
            "resume with the same config, or start it again with --force-train"
        )
    if state.path is None:
        return Decision(spec.name, "train", f"{before}; starts from the beginning: {state.damage}", warn=True)
    if state.damage is not None:
        return Decision(spec.name, "resume", f"{before}; {state.damage}: resumes from the one before", warn=True)
    return Decision(spec.name, "resume", before)


def _decide_evaluation(name: str, job: Job, snapshot: Snapshot, usable: Mapping[str, str | None]) -> EvaluationDecision:
    record, settings = snapshot.status.evaluation(name), job.evaluations[name]
    if name in job.redo:
        return EvaluationDecision(name, True, f"--redo-{name.replace('_', '-')}", settings)
    if record.status != "completed" or record.inputs is None:
        return EvaluationDecision(name, True, record.status.replace("_", " "), settings)
    made = record.files or (f"{name}.json", f"{name}.npz")
    missing = [file for file in made if f"reports/{file}" not in snapshot.present]
    if missing:
        return EvaluationDecision(name, True, f"{job.run.reports / missing[0]} is missing", settings)
    other = next((file for file, known in (record.files or {}).items() if snapshot.results[file] != known.digest), None)
    if other is not None:
        return EvaluationDecision(name, True, f"{job.run.reports / other} is not what was saved", settings)
    known, inputs = record.inputs, evaluation_inputs(job.cfg, settings, snapshot, usable)
    moved = sorted(key for key in inputs.keys() | known if inputs.get(key) != known.get(key))
    if "config" in moved and is_evaluation_hash(known.get("config", ""), job.cfg, settings):
        moved.remove("config")
    if moved:
        return EvaluationDecision(name, True, f"{', '.join(moved)} changed since it ran", settings)
    return EvaluationDecision(name, False, f"completed at {record.completed_at}, nothing changed since", settings)


def _moved_input(spec: StageSpec, cfg: PipelineConfig, snapshot: Snapshot, moved: set[str]) -> str | None:
    """Which of the things a stage learns from is not what its record names, in words."""
    return _moved_upstream(spec, moved) or _moved_teacher(changed_input(spec, cfg, snapshot))


def _moved_upstream(spec: StageSpec, moved: set[str]) -> str | None:
    upstream = next((name for name in spec.needs if name in moved), None)
    return None if upstream is None else f"{upstream}, which it depends on, runs again"


def _moved_teacher(changed: str | None) -> str | None:
    return None if changed is None else f"{changed} is not what it was trained from any more"


def _require_same_origin(spec: StageSpec, job: Job, snapshot: Snapshot) -> str | None:
    """Which checkpoint that a stage learned from is another one now. Raises BadInput where seed, split or data is.

    Those are a person's doing, and training again would throw whole work away.
    """
    changed = changed_input(spec, job.cfg, snapshot)
    if changed == INIT:  # the run that it began from may go on; what was learned since stands
        return None
    if changed not in (SEED, SPLIT, DATA):
        return changed
    lost = {name: snapshot.records[name] for name in dependants(spec.name)}
    begun = [name for name, record in lost.items() if record.status != "not_started"]
    seconds = sum(lost[name].seconds or 0.0 for name in begun)
    steps = sum(lost[name].step or 0 for name in begun)
    raise BadInput(
        f"{job.run.checkpoints}: {spec.name} was trained with {in_words(changed)} than there are now. "
        f"Put back what it was trained with, or choose another --run-dir; --force-train trains again and throws away "
        f"{', '.join(begun)} ({steps} steps, {seconds:.0f} s)"
    )


def _retrain(replaced: Mapping[str, str], job: Job, snapshot: Snapshot) -> dict[str, str]:
    """What the files will not show any more after a kill: which stages were to start again by force, or after another.

    Only of stages of which there is something.
    """
    reasons = dict(replaced) if job.policy.force_train else {}
    for name in replaced:
        for other in dependants(name)[1:]:
            reasons.setdefault(other, f"{name}, which it depends on, runs again")
    return {name: why for name, why in reasons.items() if snapshot.records[name].status != "not_started"}


def _damage(checkpoints: Path, spec: StageSpec, record: StageRecord, snapshot: Snapshot) -> str | None:
    """What is wrong with the weights that the next stages and the evaluations load."""
    known, used = record.files or {}, record.checkpoint or spec.checkpoint
    for name in (used, *known):
        if name not in spec.files:
            return f"{name} is no file of this stage (its files are {', '.join(spec.files)})"
    for name in dict.fromkeys((used, spec.checkpoint)):
        if name not in snapshot.digests:
            return f"{checkpoints / name} is missing"
        if name in known and snapshot.digests[name] != known[name].digest:
            return f"{checkpoints / name} is not what was saved (its sha256 differs)"
    return None


def _spoilt_beside(spec: StageSpec, record: StageRecord, snapshot: Snapshot) -> str | None:
    """Of the files that only complete the set, the raw weights, one that is missing or damaged, and how."""
    for name, known in (record.files or {}).items():
        found = snapshot.digests.get(name)
        if found != known.digest:
            return f"{name} is missing" if found is None else f"{name} is not what was saved"
    return None


def _require_operator(job: Job, snapshot: Snapshot) -> None:
    reasons = usable_stages(job.cfg, job.run.checkpoints, snapshot)
    path = job.run.checkpoints / SPECS["operator"].checkpoint
    if "operator" not in reasons and reasons and not job.cfg.stages.operator.epochs:
        return  # a steady prior alone
    if "operator" not in reasons:
        raise CheckpointError(
            f"{path}: --skip-training finds no completed operator to evaluate; train first, or name the right --run-dir"
        )
    reason = reasons["operator"] or snapshot.archive_damages.get("operator")
    if reason is not None:
        raise CheckpointError(f"{path}: --skip-training cannot evaluate this operator: {reason}; train it again")


def _require_inputs(spec: StageSpec, job: Job, snapshot: Snapshot, decisions: list[Decision]) -> None:
    coming = {decision.stage for decision in decisions if decision.action != "disabled"}
    missing = [name for name in spec.needs if name not in coming]
    usable = usable_stages(job.cfg, job.run.checkpoints, snapshot) if missing else {}
    for name in missing:
        path = job.run.checkpoints / SPECS[name].checkpoint
        reason = usable.get(name, f"{path} is not there")
        if reason is not None:
            raise BadInput(
                f"stage {spec.name} needs {path}, but {reason}: train stage {name} first "
                f"(--stage {name}, or --stage all), or set stages.{spec.name}.epochs to 0"
            )


def _require_permission(job: Job, snapshot: Snapshot) -> None:
    if job.policy.force_train:
        return
    if not snapshot.has_status:
        existing = [Path(name).name for name in (*snapshot.digests, *snapshot.state_files)]
        if existing:
            raise BadInput(STATUS_NOT_FOUND.format(path=job.run.status, names=", ".join(existing)))
        return
    for name, spec in SPECS.items():
        stray = [file for file in (*spec.files, *states_of(name)) if file in snapshot.present]
        if snapshot.records[name].status == "not_started" and job.policy.selects(name) and stray:
            raise BadInput(NOT_NAMED.format(status=job.run.status, stage=name, names=", ".join(stray)))
    started = [(name, record.status) for name, record in snapshot.records.items() if record.status != "not_started"]
    if started and not job.policy.auto_resume:
        held = ", ".join(f"{name} ({status})" for name, status in started)
        raise BadInput(
            f"{job.run.checkpoints}: already holds {held}; resume with --auto-resume, or train again with --force-train"
        )
