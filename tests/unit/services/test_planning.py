"""The state table: what each stage needs, and why."""

import json
import shutil

import pytest

from flows import ROOT
from tasks.services.run.attempts import ChainRun
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore
from tasks.services.stages.deciding import decide, decide_evaluations, resumed_in_chain, usable_stages
from tasks.services.stages.job import Job, Policy
from tasks.services.stages.snapshot import read_snapshot
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig
from ups_models.errors import ArchitectureMismatch, BadInput
from ups_models.files import digest_of
from ups_models.stages.spec import SPECS

RESUME = Policy(auto_resume=True)


@pytest.fixture
def run(tmp_path, finished_run, smoke):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    return RunDir.of(tmp_path, smoke.checkpoint.dir)


def plan(cfg, run, policy):
    return decide(Job(cfg, run, policy), read_snapshot(cfg, run)).stages


def plan_evaluation(name, settings, cfg, run, *, redo):
    job = Job(cfg, run, evaluations={name: settings}, redo=frozenset([name] if redo else []))
    return decide_evaluations(job, read_snapshot(cfg, run))[0]


def actions(decisions):
    return {decision.stage: decision.action for decision in decisions}


def changed(cfg, **sections):
    return cfg.model_copy(
        update={name: getattr(cfg, name).model_copy(update=values) for name, values in sections.items()}
    )


def with_stage(cfg, name, **values):
    stages = cfg.stages.model_copy(update={name: getattr(cfg.stages, name).model_copy(update=values)})
    return cfg.model_copy(update={"stages": stages})


def test_an_empty_directory_trains_everything_in_order(tmp_path, smoke):
    decisions = plan(smoke, RunDir.of(tmp_path, smoke.checkpoint.dir), Policy())

    assert [decision.stage for decision in decisions] == [
        *("operator", "diff_residual", "consistency_distill", "steady_prior")
    ]
    assert set(actions(decisions).values()) == {"train"}
    assert list(tmp_path.iterdir()) == []


def test_completed_stages_are_skipped(run, smoke):
    assert set(actions(plan(smoke, run, RESUME)).values()) == {"skip"}


def test_a_missing_file_runs_the_stage_and_its_dependants_again(run, smoke):
    run.checkpoint("operator_ema.pt").unlink()

    decisions = plan(smoke, run, RESUME)

    assert actions(decisions) == {
        "operator": "train",
        "diff_residual": "train",
        "consistency_distill": "train",
        "steady_prior": "skip",
    }
    assert "operator_ema.pt is missing" in decisions[0].reason
    assert decisions[0].warn


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_raw_weights_alone_retrain_nothing(run, smoke, spoil):
    spoil(run.checkpoint("operator.pt"))

    decisions = plan(smoke, run, RESUME)

    assert set(actions(decisions).values()) == {"skip"}
    assert decisions[0].warn
    assert "operator.pt is " in decisions[0].reason


def replace_operator(run):
    """Other weights in the place of the operator, with a status that names them."""
    shutil.copy(run.checkpoint("operator.pt"), run.checkpoint("operator_ema.pt"))
    raw = json.loads(run.status.read_text("utf-8"))
    raw["stages"]["operator"]["files"]["operator_ema.pt"] = raw["stages"]["operator"]["files"]["operator.pt"]
    run.status.write_text(json.dumps(raw), encoding="utf-8")


def test_a_teacher_that_was_replaced_makes_its_students_run_again(run, smoke):
    replace_operator(run)

    decisions = plan(smoke, run, RESUME)

    assert actions(decisions)["diff_residual"] == "train"
    assert "operator_ema.pt is not what it was trained from any more" in decisions[1].reason


def test_other_data_are_refused_and_the_cost_of_training_again_is_told(run, smoke):
    for path in run.data.glob("2D_*"):
        path.write_bytes(path.read_bytes() + b"more")
        path.with_name(f".{path.name}.digest.json").unlink()

    with pytest.raises(
        BadInput, match=r"steady_prior was trained with other data .* throws away steady_prior \(10 steps"
    ):
        plan(smoke, run, RESUME)

    assert actions(plan(smoke, run, Policy(stage="steady_prior", force_train=True))) == {"steady_prior": "train"}


def test_solved_data_that_were_damaged_cost_no_stage(run, smoke):
    for path in run.data.glob("*.hdf5"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")

    assert set(actions(plan(smoke, run, RESUME)).values()) == {"skip"}


def test_data_that_is_not_there_moves_nothing(run, smoke):
    shutil.rmtree(run.data)

    assert set(actions(plan(smoke, run, RESUME)).values()) == {"skip"}


def test_a_config_of_another_shape_is_an_architecture_mismatch(run, smoke):
    with pytest.raises(ArchitectureMismatch, match="latent_dim=4 vs latent_dim=8"):
        plan(changed(smoke, latent={"dim": 8}), run, RESUME)


def test_an_architecture_mismatch_is_a_value_error(run, smoke):
    with pytest.raises(ValueError, match="Architecture mismatch"):
        plan(changed(smoke, operator={"width": 32}), run, RESUME)


def test_a_change_that_shapes_no_tensor_is_told_and_changes_nothing(run, smoke):
    decisions = plan(with_stage(smoke, "operator", lr=1e-4), run, RESUME)

    assert decisions[0].action == "skip"
    assert decisions[0].warn
    assert "--force-train" in decisions[0].reason


def test_zero_epochs_skip_a_completed_stage_and_disable_one_that_never_ran(run, tmp_path, smoke):
    off = with_stage(smoke, "operator", epochs=0)

    completed = plan(off, run, RESUME)

    assert actions(completed)["operator"] == "skip"
    with pytest.raises(BadInput, match=r"diff_residual needs .*operator_ema\.pt"):
        plan(off, RunDir.of(tmp_path / "empty", smoke.checkpoint.dir), Policy())


def test_force_train_trains_what_was_selected(run, smoke):
    decisions = plan(smoke, run, Policy(stage="steady_prior", force_train=True))

    assert actions(decisions) == {"steady_prior": "train"}


def test_a_failed_stage_without_a_saved_state_starts_again_and_says_what_had_failed(run, smoke, own):
    store = StatusStore(own(run))
    store.start("operator", total_epochs=3, arch={}, config_hash="", seed=0, inputs={}, fresh=True)
    store.fail("operator", "out of memory")

    decision = plan(smoke, run, RESUME)[0]

    assert decision.action == "train"
    assert "out of memory" in decision.reason


def test_a_status_that_names_a_file_outside_its_stage_is_not_followed(run, smoke):
    text = run.status.read_text("utf-8").replace('"checkpoint": "operator_ema.pt"', '"checkpoint": "../evil.pt"')
    run.status.write_text(text, encoding="utf-8")

    decision = plan(smoke, run, RESUME)[0]

    assert decision.action == "train"
    assert "is no file of this stage" in decision.reason


def test_an_evaluation_is_skipped_until_something_it_depends_on_changes(run, smoke, own):
    settings = EvalConfig()
    store = StatusStore(own(run))
    first = plan_evaluation("small_eval", settings, smoke, run, redo=False)
    store.record_evaluation("small_eval", inputs=dict(store.read().evaluation("small_eval").inputs or {}, config="x"))

    moved = plan_evaluation("small_eval", settings, smoke, run, redo=False)

    assert first.run
    assert "config changed" in first.reason
    assert moved.run
    assert plan_evaluation("small_eval", settings, smoke, run, redo=True).reason == "--redo-small-eval"


def test_a_run_has_one_owner(tmp_path, smoke):
    run = RunDir.of(tmp_path, smoke.checkpoint.dir)

    with owned(run), pytest.raises(BadInput, match=r"process \d+ on .* is working on this run"), owned(run):
        pytest.fail("two owners")
    with owned(run):
        assert run.lock.is_file()


def test_another_split_is_refused_and_the_cost_is_told(run, smoke):
    with pytest.raises(BadInput, match=r"operator was trained with another split .* consistency_distill"):
        plan(changed(smoke, data={"test": 6}), run, RESUME)


def test_another_seed_is_refused_and_training_again_needs_a_flag(run, smoke):
    other = smoke.model_copy(update={"seed": 7})

    with pytest.raises(BadInput, match=r"operator was trained with another seed .*; --force-train trains again"):
        plan(other, run, RESUME)

    assert set(actions(plan(other, run, Policy(force_train=True))).values()) == {"train"}


def test_a_status_that_names_nothing_does_not_let_checkpoints_be_overwritten(run, smoke):
    run.status.write_text('{"schema_version": 1, "stages": {}}', encoding="utf-8")

    with pytest.raises(BadInput, match=r"says that stage operator has not started, but operator\.pt, operator_ema\.pt"):
        plan(smoke, run, Policy())
    with pytest.raises(BadInput, match="use --force-train --stage operator"):
        plan(smoke, run, RESUME)

    assert set(actions(plan(smoke, run, Policy(force_train=True))).values()) == {"train"}


def without_digests(run, **stages):
    """A status written by hand: only that these stages are completed, and what else is given of them."""
    records = {name: {"status": "completed", **more} for name, more in stages.items()}
    run.status.write_text(json.dumps({"schema_version": 1, "stages": records}), encoding="utf-8")
    for name in SPECS.keys() - stages.keys():
        for file in SPECS[name].files:
            run.checkpoint(file).unlink()


def test_a_hand_written_status_does_not_lend_weights_another_seed(run, smoke):
    without_digests(run, operator={})

    assert plan(smoke, run, RESUME)[0].action == "adopt"
    with pytest.raises(BadInput, match="operator was trained with another seed"):
        plan(smoke.model_copy(update={"seed": 7}), run, RESUME)


def test_what_a_checkpoint_says_of_itself_counts_more_than_its_record(run, smoke):
    other = smoke.model_copy(update={"seed": 7})
    raw = json.loads(run.status.read_text("utf-8"))
    for record in raw["stages"].values():
        record["seed"], record["inputs"]["seed"] = 7, "7"
    run.status.write_text(json.dumps(raw), encoding="utf-8")

    with pytest.raises(BadInput, match="operator was trained with another seed"):
        plan(other, run, RESUME)


def test_forced_training_that_was_killed_is_not_forgotten_and_not_done_twice(run, smoke, own):
    forced = Job(smoke, run, Policy(force_train=True))
    owner = own(run)
    planned = decide(forced, read_snapshot(smoke, owner))
    StatusStore(owner).order_retraining(planned.retrain, "chain-1")
    begin(owner, "operator", smoke)
    complete(owner, "operator")

    later = resumed_in_chain(
        forced, read_snapshot(smoke, owner).status.forced_by, ChainRun("chain-1", "run-2", 2, 9, 9)
    )

    assert actions(decide(later, read_snapshot(smoke, owner)).stages) == {
        "operator": "skip",
        "diff_residual": "train",
        "consistency_distill": "train",
        "steady_prior": "train",
    }
    assert resumed_in_chain(forced, "chain-1", ChainRun("chain-2", "run-3", 1, 9, 9)) == forced


def test_an_attempt_after_the_first_resumes_whatever_the_request_said(run, smoke):
    job = Job(smoke, run, Policy())

    with pytest.raises(BadInput, match="already holds"):
        decide(resumed_in_chain(job, None, ChainRun("chain", "run-1", 1, 9, 9)), read_snapshot(smoke, run))

    later = resumed_in_chain(job, None, ChainRun("chain", "run-2", 2, 9, 9))
    assert set(actions(decide(later, read_snapshot(smoke, run)).stages).values()) == {"skip"}


def test_a_teacher_trained_again_on_its_own_has_its_students_follow_even_after_a_kill(run, smoke, own):
    owner = own(run)
    planned = decide(Job(smoke, run, Policy(stage="operator", force_train=True)), read_snapshot(smoke, owner))

    StatusStore(owner).order_retraining(planned.retrain, None)

    assert actions(plan(smoke, run, RESUME)) == dict.fromkeys(list(SPECS)[:3], "train") | {"steady_prior": "skip"}


def begin(run, stage, cfg):
    record = read_snapshot(cfg, run).records[stage]
    StatusStore(run).start(
        stage,
        fresh=True,
        total_epochs=1,
        arch=record.arch or {},
        config_hash=record.config_hash or "",
        seed=0,
        inputs=dict(record.inputs or {}),
    )


def complete(run, stage):
    files = {name: digest_of(run.checkpoint(name)) for name in SPECS[stage].files}
    StatusStore(run).complete(stage, checkpoint=SPECS[stage].checkpoint, files=files, step=1, seconds=1.0)


def interrupted(run, stage):
    """Make a stage look as if it had been killed while it trained."""
    raw = json.loads(run.status.read_text("utf-8"))
    raw["stages"][stage] |= {"status": "in_progress", "step": 5}
    run.status.write_text(json.dumps(raw), encoding="utf-8")
    run.resume(stage).parent.mkdir(exist_ok=True)
    shutil.copy(run.checkpoint(SPECS[stage].files[0]), run.resume(stage))


def test_an_interrupted_stage_goes_on(run, smoke):
    interrupted(run, "diff_residual")

    assert actions(plan(smoke, run, RESUME))["diff_residual"] == "resume"


def test_an_interrupted_stage_starts_again_when_what_it_learns_from_is_trained_again(run, smoke):
    interrupted(run, "diff_residual")
    run.checkpoint("operator_ema.pt").unlink()

    decisions = plan(smoke, run, RESUME)

    assert actions(decisions)["diff_residual"] == "train"
    assert "operator, which it depends on, runs again" in decisions[1].reason


def test_a_saved_state_that_cannot_be_read_starts_the_stage_again(run, smoke):
    interrupted(run, "operator")
    run.resume("operator").write_bytes(run.resume("operator").read_bytes()[:100])

    decision = plan(smoke, run, RESUME)[0]

    assert decision.action == "train"
    assert "starts from the beginning" in decision.reason


def test_a_student_of_a_replaced_operator_is_not_used(run, smoke):
    replace_operator(run)

    reasons = usable_stages(smoke, run.checkpoints, read_snapshot(smoke, run))

    assert reasons["operator"] is None
    assert "operator_ema.pt is not what it was trained from" in (reasons["diff_residual"] or "")
    assert "diff_residual, which it depends on" in (reasons["consistency_distill"] or "")
    with pytest.raises(BadInput, match=r"consistency_distill needs .*diffusion_residual_ema\.pt, but operator_ema\.pt"):
        plan(smoke, run, Policy(stage="consistency_distill", force_train=True))


def test_an_evaluation_without_its_arrays_runs_again(run, smoke):
    settings = load_config(ROOT / "configs" / "small_eval.yaml", schema=EvalConfig)
    assert not plan_evaluation("small_eval", settings, smoke, run, redo=False).run
    (run.reports / "small_eval.npz").unlink()

    again = plan_evaluation("small_eval", settings, smoke, run, redo=False)

    assert again.run
    assert "small_eval.npz is missing" in again.reason


def test_a_saved_state_without_a_status_is_not_thrown_away(run, smoke):
    interrupted(run, "operator")
    run.status.unlink()
    for spec in SPECS.values():
        for name in spec.files:
            run.checkpoint(name).unlink()

    with pytest.raises(BadInput, match=r"Stage status file not found: .* operator\.pt exist"):
        plan(smoke, run, RESUME)
