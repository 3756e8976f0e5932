"""What belongs together: parts of two runs, or of one run at two times, are never mixed without a word."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from flows.dag import run_job
from flows.requests.job import parse, plan_of
from flows.requests.train import TrainRequest
from tasks.services.run.history import History
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.stages.snapshot import read_inputs, read_snapshot
from tasks.services.stages.training import train_stage_files
from ups_models.errors import BadInput, DataError
from ups_models.evaluation.result import read_result
from ups_models.stages.lineage import HEADER, Lineage, append_header, read_lineage
from ups_models.stages.spec import SPECS

SMOKE = Path("configs/smoke.yaml")
EVERY_FIVE = ("checkpoint.save_every_steps=5",)


class Killed(Exception):
    """The process ends in the middle of a stage."""


@pytest.fixture(scope="module")
def other_run(tmp_path_factory):
    """A finished run of another seed."""
    directory = tmp_path_factory.mktemp("other")
    run_job(parse(TrainRequest(config=SMOKE, run_dir=directory, set=("seed=1",))))
    return directory


@pytest.fixture
def run(run_dir, smoke):
    return RunDir.of(run_dir, smoke.checkpoint.dir)


@pytest.fixture
def interrupted(tmp_path, smoke, monkeypatch):
    """A run that was killed in step 12 of the operator, and so holds the states of steps 10 and 5."""
    cfg = smoke.model_copy(update={"checkpoint": smoke.checkpoint.model_copy(update={"save_every_steps": 5})})
    run, append = RunDir.of(tmp_path / "interrupted", cfg.checkpoint.dir), History.append

    def kill_at_12(self, stage, row):
        if row["step"] == 12:
            raise Killed
        append(self, stage, row)

    with monkeypatch.context() as patched, owned(run) as own:
        patched.setattr(History, "append", kill_at_12)
        with pytest.raises(Killed):
            train_stage_files("operator", cfg, own, fresh=True)
    return run


def resume(run):
    run_job(parse(TrainRequest(config=SMOKE, run_dir=run.root, set=EVERY_FIVE, stage="operator", auto_resume=True)))


def strip(path):
    """The same weights, as the first edition wrote them: without a header."""
    torch.save(torch.load(path, weights_only=True), path)


def rewritten(path, **values):
    """The same archive under a changed header."""
    lineage = read_lineage(path)
    assert lineage is not None
    payload = torch.load(path, weights_only=True)
    payload |= {name: value for name, value in values.items() if name in payload}
    with path.open("w+b") as file:
        torch.save(payload, file)
        append_header(file, Lineage.model_validate({**lineage.model_dump(), **values}))


def test_every_checkpoint_says_what_it_was_trained_from(finished_run, smoke):
    snapshot = read_snapshot(smoke, RunDir.of(finished_run, smoke.checkpoint.dir))

    found = snapshot.lineages

    assert {name: found[name].inputs for name in SPECS} == {name: snapshot.records[name].inputs for name in SPECS}
    assert found["diff_residual"].inputs["operator_ema.pt"] == snapshot.digests["operator_ema.pt"].sha256
    assert found["operator"].settings["epochs"] == smoke.stages.operator.epochs


def test_a_header_changes_no_weight_and_no_digest_of_equal_weights(finished_run, tmp_path):
    path = finished_run / "checkpoints" / "operator_ema.pt"
    bare = shutil.copy(path, tmp_path / "bare.pt")

    strip(bare)

    assert read_lineage(bare) is None
    before, after = (torch.load(each, weights_only=True)["state_dict"] for each in (path, bare))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda newest: newest.write_bytes(newest.read_bytes()[:500]), "is damaged"),
        (lambda newest: rewritten(newest, inputs={"seed": "1"}), "is of a training with another seed"),
        (lambda newest: rewritten(newest, step=10**9), "stands at step 1000000000, but the stage has"),
        (lambda newest: rewritten(newest, stage="steady_prior"), "is of stage steady_prior"),
        (lambda newest: rewritten(newest, config_hash="v2:0"), "was saved under other settings"),
    ],
    ids=["cut", "seed", "step", "stage", "settings"],
)
def test_a_state_that_cannot_be_used_costs_one_interval(interrupted, caplog, spoil, reason):
    spoil(interrupted.resume("operator"))

    resume(interrupted)

    assert "operator: resume: " in caplog.text
    assert reason in caplog.text
    assert "resumes from the one before" in caplog.text
    steps = [row["step"] for row in History(interrupted).read()["operator"]]
    assert steps == list(range(1, len(steps) + 1))


def test_states_of_which_none_can_be_used_start_the_stage_again(interrupted, caplog):
    for path in interrupted.saved_states("operator"):
        rewritten(path, inputs={"seed": "1"})

    resume(interrupted)

    assert "starts from the beginning" in caplog.text
    assert read_status(interrupted.status).stage("operator").status == "completed"


def test_checkpoints_of_two_runs_are_not_evaluated_together(run_dir, other_run, ups):
    shutil.copytree(other_run, "other")

    done = ups(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt", "--config", str(SMOKE)),
        *("--diffusion", "other/checkpoints/diffusion_residual_ema.pt"),
    )

    assert done.returncode == 2
    assert "diffusion_residual_ema.pt: was trained with another" in done.stderr
    assert not (run_dir / "reports" / "evaluation.json").exists()


def test_checkpoints_need_no_config_where_their_run_keeps_one(run_dir, ups):
    done = ups(*("evaluate", "--operator", "checkpoints/operator_ema.pt", "--eval-config", "configs/small_eval.yaml"))

    assert done.returncode == 0
    assert read_result(run_dir / "reports" / "evaluation.json").unknown_descents == ()


def test_an_operator_of_another_run_is_not_evaluated_under_this_status(run, other_run, train):
    shutil.copy(other_run / "checkpoints" / "operator_ema.pt", run.checkpoint("operator_ema.pt"))

    with pytest.raises(Exception, match="cannot evaluate this operator"):
        train(skip_training=True)


@pytest.mark.parametrize("name", ["small_eval.json", "small_eval.npz", "report.html"])
def test_an_evaluation_of_another_run_is_made_again(run, other_run, train, caplog, name):
    before = (run.reports / name).read_bytes()
    shutil.copy(other_run / "reports" / name, run.reports / name)

    train(auto_resume=True)

    assert len((run.reports / name).read_bytes()) >= len(before) - 100
    assert (run.reports / name).read_bytes() != (other_run / "reports" / name).read_bytes()


def test_a_report_shows_the_settings_that_the_weights_were_trained_with(run, train):
    trained_lr = yaml.safe_load(run.config.read_text("utf-8"))["stages"]["operator"]["lr"]

    train(auto_resume=True, set=("stages.operator.lr=0.5",), redo_full_eval=True)

    assert f"lr: {trained_lr}" in run.report.read_text("utf-8")
    assert "lr: 0.5" not in run.report.read_text("utf-8")
    assert "lr: 0.5" not in run.config.read_text("utf-8")


def test_settings_that_no_weights_were_trained_with_run_no_evaluation_again(run, train, caplog):
    caplog.set_level("INFO")
    before = run.result("full_eval").read_bytes()

    train(auto_resume=True, set=("stages.operator.lr=0.5",))

    assert run.result("full_eval").read_bytes() == before


def test_weights_without_a_lineage_are_used_and_every_report_says_so(run, train, caplog):
    for spec in SPECS.values():
        for name in spec.files:
            strip(run.checkpoint(name))
    records = {name: {"status": "completed"} for name in SPECS}
    run.status.write_text(json.dumps({"schema_version": 1, "stages": records}), encoding="utf-8")

    train(auto_resume=True)

    assert caplog.text.count("descent unknown: the checkpoints of operator, diff_residual") == 1
    assert read_result(run.result("full_eval")).unknown_descents == tuple(SPECS)
    assert "descent unknown: operator, diff_residual" in run.report.read_text("utf-8")
    assert "descent unknown: operator, diff_residual" in run.result("small_eval", ".md").read_text("utf-8")


def test_weights_without_a_lineage_of_another_split_are_refused(run, train):
    strip(run.checkpoint("operator_ema.pt"))
    run.status.write_text(json.dumps({"schema_version": 1, "stages": {"operator": {"status": "completed"}}}))

    with pytest.raises(Exception, match="was trained on other data or another split"):
        train(stage="operator", auto_resume=True, set=("data.test=6",))


def test_a_folder_is_one_run(run, train):
    with pytest.raises(BadInput, match=r"is the run whose checkpoints are in .*checkpoints.*choose another --run-dir"):
        train(set=("checkpoint.dir=others",))

    assert not (run.root / "others").exists()


def test_a_config_of_the_user_is_left_alone(here, train, caplog):
    (here / "config.yaml").write_text("mine: 1\n", encoding="utf-8")

    train(stage="steady_prior")

    assert (here / "config.yaml").read_text("utf-8") == "mine: 1\n"
    assert "is left alone" in caplog.text


def test_the_run_keeps_its_config_command_and_commit(finished_run, ups, here, smoke):
    text = (finished_run / "config.yaml").read_text("utf-8")

    assert "# command: " in text
    assert "# commit: " in text
    shutil.copytree(finished_run, here / "run")
    assert "operator               skip" in ups("status", "run/checkpoints", "--plan").stdout


def test_data_replaced_between_two_stages_are_refused(run, smoke):
    for path in run.data.glob("1D_*"):
        path.write_bytes(path.read_bytes() + b"more")
        path.with_name(f".{path.name}.digest.json").unlink()

    with pytest.raises(DataError, match=r"operator_ema\.pt: was trained on other data .* diff_residual would mix"):
        read_inputs(SPECS["diff_residual"], smoke, run)


def test_damaged_data_that_we_solved_are_solved_again(run, train, caplog):
    [path] = run.data.glob("2D_*")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")

    train(stage="steady_prior", force_train=True)

    assert path.read_bytes() == whole
    assert f"{path.name}: is not what was solved" in caplog.text


def test_a_forged_header_is_named(run, smoke):
    path = run.checkpoint("operator_ema.pt")
    strip(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(HEADER, "[" * 100_000)

    with pytest.raises(Exception, match=r"operator_ema\.pt: its header cannot be read"):
        read_snapshot(smoke, run)


def test_the_plan_of_a_finished_run_is_the_same_from_its_own_config(run):
    plan = plan_of(parse(TrainRequest(config=run.config, run_dir=run.root, auto_resume=True)))

    assert {decision.action for decision in plan.stages} == {"skip"}
    assert not any(evaluation.run for evaluation in plan.evaluations if evaluation.name == "small_eval")


def test_a_loss_history_of_another_run_is_left_out_of_the_report(run, other_run, train, caplog):
    shutil.copy(other_run / "reports" / "metrics.jsonl", run.history)

    train(auto_resume=True)

    assert "metrics.jsonl: does not hold what was measured in operator, diff_residual" in caplog.text
    assert History(run).of_these_weights(read_status(run.status)) == {}


def test_a_loss_history_that_is_lost_is_told_and_costs_itself(run, train, caplog):
    run.history.unlink()

    train(auto_resume=True)

    assert "metrics.jsonl: does not hold what was measured in operator" in caplog.text


def test_a_config_of_another_run_is_written_again(run, other_run, train):
    before = yaml.safe_load(run.config.read_text("utf-8"))
    shutil.copy(other_run / "config.yaml", run.config)

    train(auto_resume=True)

    assert yaml.safe_load(run.config.read_text("utf-8")) == before
