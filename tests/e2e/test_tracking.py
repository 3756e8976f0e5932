"""Runs that W&B sees, on loopback with the real client: what arrives, what survives, what never stops training."""

import json
import shutil
import signal
import socket
import sqlite3

import pytest

from flows import ROOT
from harness.chaos.checks import outcome
from harness.commands import CANARY_KEY, command
from harness.emulators.wandb.server import WandbServer
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.tracking.run_path import RunPath
from tasks.services.tracking.store import WandbStore
from ups_models.config.schema import TrackingConfig
from ups_models.files import digest_of
from ups_models.stages.spec import SPECS

ENTITY, PROJECT = "researcher", "ups-pipeline"
SMOKE = ("--config", "configs/smoke.yaml")
TRAIN_ONLY = ("--skip-small-eval", "--skip-full-eval")
STEPS = {"operator": 30, "diff_residual": 20, "consistency_distill": 10, "steady_prior": 10}
LONGER = ("--set", "stages.operator.steps_per_epoch=40", "--set", "tracking.upload_every_s=0.01")
EAGER = (*LONGER, "--set", "stages.diff_residual.steps_per_epoch=60", "--set", "checkpoint.save_every_steps=5")


def run_in(root):
    return RunDir.of(root, root / "checkpoints")


def status_of(root):
    return read_status(run_in(root).status)


def seen(server, root):
    record = status_of(root).wandb
    return server.run(record.entity, record.project, record.id)


def rows_of(server_run, stage):
    return [row[f"{stage}/step"] for row in server_run.history if f"{stage}/step" in row]


def weights_of(root):
    return {name: digest for name, digest in outcome(run_in(root)).items() if name.endswith(".pt")}


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tracked_pipeline):
    """A finished, tracked run that nothing disturbed. Tests must copy it before they change it."""
    root = tmp_path_factory.mktemp("straight")
    done = tracked_pipeline(*SMOKE, cwd=root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pipeline):
    """The weights that an interrupted run of EAGER must end with."""
    root = tmp_path_factory.mktemp("undisturbed")
    done = pipeline(*SMOKE, *EAGER, *TRAIN_ONLY, cwd=root)
    assert done.returncode == 0, done.stderr
    return weights_of(root)


def test_metrics_config_figures_and_the_page_are_in_the_run(straight, wandb_server):
    run = seen(wandb_server, straight)

    assert {stage: rows_of(run, stage) for stage in SPECS} == {
        stage: list(range(1, steps + 1)) for stage, steps in STEPS.items()
    }
    axis = [row["global_step"] for row in run.history if "global_step" in row]
    assert axis == list(range(1, sum(STEPS.values()) + 1))
    assert run.config["latent"]["dim"] == 4
    assert len(run.config["code"].partition("+")[0]) == 40
    assert run.state == "finished"
    assert run.summary["full_eval/rollout/summary/operator/mean"] > 0
    kinds = {name.rpartition(".")[2] for name in run.files if name.startswith("media/")}
    assert {"png", "html", "json"} <= kinds


def test_a_promoted_run_has_its_alias_in_wandb_until_another_takes_it(
    straight, wandb_server, tracked_ups, wandb_environment, tmp_path, monkeypatch
):
    root = shutil.copytree(straight, tmp_path / "run")
    path = root / "reports" / "full_eval.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"checks": [{"name": "a", "value": 0, "bound": 1}]}))
    record = status_of(straight).wandb
    collection = f"ckpt-{record.id}"

    done = tracked_ups("promote", str(root), cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"W&B: {ENTITY}/{PROJECT}/{collection}:best" in done.stdout
    assert "latest" in wandb_server.artifact(ENTITY, PROJECT, f"{collection}:best").aliases
    for name, value in wandb_environment.items():
        monkeypatch.setenv(name, value)
    WandbStore(RunPath(record.id, PROJECT, ENTITY), TrackingConfig()).take_alias("best")
    with pytest.raises(KeyError):
        wandb_server.artifact(ENTITY, PROJECT, f"{collection}:best")


def test_every_stage_leaves_a_committed_set_under_its_name(straight, wandb_server):
    record = status_of(straight).wandb
    collection = f"ckpt-{record.id}"
    versions = wandb_server.artifacts[f"{ENTITY}/{PROJECT}/{collection}"]

    assert {version.state for version in versions} <= {"COMMITTED", "DELETED"}
    latest = wandb_server.artifact(ENTITY, PROJECT, f"{collection}:latest")
    content = wandb_server.content(latest)
    assert {name for spec in SPECS.values() for name in spec.files} | {"stage_status.json", "manifest.json"} <= set(
        content
    )
    assert json.loads(content["stage_status.json"])["stages"]["steady_prior"]["status"] == "completed"
    for stage in SPECS:
        assert wandb_server.artifact(ENTITY, PROJECT, f"{collection}:{stage}").state == "COMMITTED"
    assert status_of(straight).upload.version == f"v{latest.version}"


def test_status_shows_the_run_and_whether_the_last_set_is_uploaded(straight, ups):
    shown = ups("status", cwd=straight)

    assert f"Run ID:                   {status_of(straight).wandb.id}" in shown.stdout
    assert "Project:                  researcher/ups-pipeline" in shown.stdout
    assert "all of it" in shown.stdout


def test_an_unchanged_run_sends_nothing_twice(straight, tmp_path, wandb_server, tracked_ups):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    before = seen(wandb_server, tmp_path)
    rows, uploads = len(rows_of(before, "operator")), len(wandb_server.blob_puts)

    done = tracked_ups("sync", ".", "--config", "configs/smoke.yaml", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(rows_of(seen(wandb_server, tmp_path), "operator")) == rows
    assert wandb_server.blob_puts[uploads:] == []
    assert status_of(tmp_path).upload.version == status_of(straight).upload.version


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.thorough), signal.SIGKILL])
def test_a_killed_run_resumes_in_the_same_wandb_run_with_every_row_once(
    tmp_path, number, wandb_server, wandb_environment, stopped_pipeline, tracked_pipeline, undisturbed
):
    code, _ = stopped_pipeline(
        *SMOKE, *EAGER, *TRAIN_ONLY, cwd=tmp_path, number=number, environment=wandb_environment,
        after="checkpoints/resume/operator.previous.pt",
    )  # fmt: skip
    first = status_of(tmp_path).wandb

    done = tracked_pipeline(*SMOKE, *EAGER, *TRAIN_ONLY, "--auto-resume", cwd=tmp_path)

    assert code == (75 if number == signal.SIGTERM else -9)
    assert done.returncode == 0, done.stderr
    assert status_of(tmp_path).wandb.id == first.id
    run = seen(wandb_server, tmp_path)
    assert run.created == 2
    assert rows_of(run, "operator") == list(range(1, 121))
    axis = [row["global_step"] for row in run.history if "global_step" in row]
    assert axis == sorted(set(axis))
    assert weights_of(tmp_path) == undisturbed


def test_a_fresh_machine_resumes_from_wandb_to_the_same_weights(
    tmp_path, wandb_server, wandb_environment, stopped_pipeline, tracked_pipeline, undisturbed
):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()

    def operator_is_safe(_pid):
        record = status_of(old).wandb if run_in(old).status.exists() else None
        versions = wandb_server.artifacts.get(f"{ENTITY}/{PROJECT}/ckpt-{record.id}", []) if record else []
        return any("operator" in version.aliases for version in versions)

    stopped_pipeline(*SMOKE, *EAGER, *TRAIN_ONLY, cwd=old, environment=wandb_environment, after=operator_is_safe)
    run_id = status_of(old).wandb.id

    done = tracked_pipeline(
        *SMOKE, *EAGER, *TRAIN_ONLY, "--resume-from-wandb", run_id, "--resume-mode", "must", cwd=new
    )

    assert done.returncode == 0, done.stderr
    assert "operator: skip" in done.stderr
    assert status_of(new).wandb.id == run_id
    assert [key for key in wandb_server.runs if run_id in key] == [f"{ENTITY}/{PROJECT}/{run_id}"]
    assert weights_of(new) == undisturbed


@pytest.mark.parametrize("mode", ["must", "never"])
def test_a_run_that_must_exist_and_does_not_is_refused_before_anything_is_written(tmp_path, mode, tracked_pipeline):
    done = tracked_pipeline(*SMOKE, "--resume-from-wandb", "no-such-run", "--resume-mode", mode, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "WandB run not found" in done.stderr
    assert "ups-pipeline/no-such-run" in done.stderr
    assert "WANDB_API_KEY is set" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_allow_begins_the_run_that_is_missing_under_that_id(tmp_path, wandb_server, tracked_pipeline):
    done = tracked_pipeline(*SMOKE, *TRAIN_ONLY, "--resume-from-wandb", "begun-by-allow", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "WandB run not found" in done.stderr
    assert rows_of(wandb_server.run(ENTITY, PROJECT, "begun-by-allow"), "operator")[-1] == 30


def test_never_takes_the_checkpoints_and_tracks_another_run(tmp_path, straight, wandb_server, tracked_pipeline):
    source = status_of(straight).wandb.id
    created = wandb_server.run(ENTITY, PROJECT, source).created

    done = tracked_pipeline(*SMOKE, *TRAIN_ONLY, "--resume-from-wandb", source, "--resume-mode", "never", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    record = status_of(tmp_path).wandb
    assert record.id != source
    assert record.source == f"{ENTITY}/{PROJECT}/{source}"
    assert weights_of(tmp_path) == weights_of(straight)
    assert wandb_server.run(ENTITY, PROJECT, source).created == created


def test_must_does_not_train_anew_where_the_run_holds_no_checkpoints(tmp_path, wandb_server, tracked_pipeline):
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    run = ("--resume-from-wandb", "without-sets")
    wandb_server.faults.refuse_uploads = 403
    try:
        first = tracked_pipeline(*SMOKE, *TRAIN_ONLY, "--stage", "operator", *run, cwd=tmp_path / "first")
    finally:
        wandb_server.faults.refuse_uploads = None

    second = tracked_pipeline(*SMOKE, *TRAIN_ONLY, *run, "--resume-mode", "must", cwd=tmp_path / "second")

    assert first.returncode == 0, first.stderr
    assert "not uploaded" in first.stderr
    assert "not uploaded" in (status_of(tmp_path / "first").upload.error_message or "")
    assert second.returncode == 2
    assert "holds no checkpoints" in second.stderr
    assert not (tmp_path / "second" / "checkpoints" / "stage_status.json").exists()


@pytest.mark.thorough
def test_names_that_a_server_makes_up_do_not_leave_the_staging_folder(
    tmp_path, straight, wandb_server, tracked_pipeline
):
    first = tmp_path / "first"
    first.mkdir()
    wandb_server.faults.refuse_uploads = 403
    try:
        hostile = tracked_pipeline(
            *SMOKE, *TRAIN_ONLY, "--stage", "operator", "--resume-from-wandb", "hostile", cwd=first
        )
    finally:
        wandb_server.faults.refuse_uploads = None
    assert hostile.returncode == 0, hostile.stderr
    files = wandb_server.run(ENTITY, PROJECT, "hostile").files
    weights = (straight / "checkpoints" / "operator_ema.pt").read_bytes()
    for name in ("../../outside.pt", "checkpoints/../../outside.pt", "/outside.pt", "checkpoints/other.pt"):
        files[name] = weights
    files["checkpoints/operator_ema.pt"] = files["checkpoints/operator.pt"] = weights
    root = tmp_path / "a" / "b" / "new"
    root.mkdir(parents=True)

    done = tracked_pipeline(*SMOKE, *TRAIN_ONLY, "--resume-from-wandb", "hostile", cwd=root)

    assert done.returncode == 0, done.stderr
    assert "files of an old version" in done.stderr
    assert "nothing says that its operator_ema.pt is the final one" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.name in ("outside.pt", "other.pt")] == []


def test_a_download_that_does_not_match_is_not_installed(tmp_path, straight, wandb_server, tracked_pipeline):
    wandb_server.faults.corrupt_downloads = True
    try:
        done = tracked_pipeline(*SMOKE, "--resume-from-wandb", status_of(straight).wandb.id, cwd=tmp_path)
    finally:
        wandb_server.faults.corrupt_downloads = False

    assert done.returncode != 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints" / "stage_status.json").exists()


def test_a_server_in_trouble_is_not_taken_for_an_empty_one(tmp_path, straight, wandb_server, tracked_pipeline):
    shutil.copytree(straight, tmp_path / "other")
    wandb_server.faults.fail_only = "artifact"
    try:
        done = tracked_pipeline(
            *SMOKE, "--set", "tracking.connect_timeout_s=3",
            "--resume-from-wandb", status_of(straight).wandb.id, cwd=tmp_path,
        )  # fmt: skip
    finally:
        wandb_server.faults.fail_only = ""

    assert done.returncode == 1, done.stderr
    assert "could not be downloaded" in done.stderr
    assert not (tmp_path / "checkpoints" / "stage_status.json").exists()


def test_an_older_copy_of_a_run_does_not_hide_what_was_trained_since(tmp_path, straight, tracked_pipeline, tracked_ups):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "checkpoints" / "stage_status.json"
    raw = json.loads(path.read_text("utf-8"))
    raw["stages"]["steady_prior"].update(status="in_progress", step=1, files=None)
    path.write_text(json.dumps(raw), encoding="utf-8")

    trained = tracked_pipeline(*SMOKE, "--auto-resume", cwd=tmp_path)
    sent = tracked_ups("sync", ".", "--config", "configs/smoke.yaml", cwd=tmp_path)

    for done in (trained, sent):
        assert done.returncode == 2, done.stderr
        assert "are further than these, trained elsewhere" in done.stderr


def test_sync_with_another_config_is_refused(tmp_path, straight, tracked_ups):
    shutil.copytree(straight, tmp_path, dirs_exist_ok=True)

    done = tracked_ups("sync", ".", "--config", "configs/quickstart.yaml", cwd=tmp_path)

    assert done.returncode == 2
    assert "was trained with another config" in done.stderr


def test_another_architecture_is_named_before_anything_is_installed(tmp_path, straight, tracked_pipeline):
    run_id = status_of(straight).wandb.id

    done = tracked_pipeline(*SMOKE, "--set", "latent.dim=8", "--resume-from-wandb", run_id, cwd=tmp_path)

    assert done.returncode == 2
    assert "Architecture mismatch: latent_dim=4 vs latent_dim=8" in done.stderr
    assert not (tmp_path / "checkpoints" / "stage_status.json").exists()


def test_a_server_that_is_not_there_costs_a_bounded_wait_and_sync_uploads_everything_later(
    tmp_path, wandb_server, wandb_environment, prefect_server, tracked_ups
):
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))  # and does not listen, so that nobody else may have the port and answer
    address = "http://{}:{}".format(*nobody.getsockname())
    away = command(
        str(ROOT / "flows" / "pipeline.py"), **prefect_server, **{**wandb_environment, "WANDB_BASE_URL": address}
    )

    done = away(*SMOKE, "--set", "tracking.connect_timeout_s=3", cwd=tmp_path)  # which itself has a limit

    nobody.close()
    assert done.returncode == 0, done.stderr
    assert "everything is kept on this machine" in done.stderr
    sent = tracked_ups("sync", ".", "--config", "configs/smoke.yaml", cwd=tmp_path)
    assert sent.returncode == 0, sent.stderr
    run = seen(wandb_server, tmp_path)
    assert {stage: len(rows_of(run, stage)) for stage in SPECS} == STEPS
    assert run.summary["full_eval/rollout/summary/operator/mean"] > 0
    assert status_of(tmp_path).upload.version == "v0"


def test_a_server_that_dies_in_the_middle_stops_nothing(tmp_path, wandb_environment, prefect_server, tracked_ups):
    with WandbServer() as dying:
        environment = {**wandb_environment, "WANDB_BASE_URL": dying.url}
        quick = ("--set", "tracking.upload_timeout_s=5", "--set", "tracking.finish_timeout_s=5")
        first = command(str(ROOT / "flows" / "pipeline.py"), **prefect_server, **environment)
        assert first(*SMOKE, *TRAIN_ONLY, "--stage", "operator", cwd=tmp_path).returncode == 0
        dying.faults.hang = True

        done = first(*SMOKE, *quick, "--set", "tracking.connect_timeout_s=3", "--auto-resume", cwd=tmp_path)

        assert done.returncode == 0, done.stderr
        assert status_of(tmp_path).is_trained()
        dying.faults.hang = False
        there = command("-m", "flows.cli", PYTHONPATH=str(ROOT), **environment)
        sent = there("sync", ".", "--config", "configs/smoke.yaml", cwd=tmp_path)
        run = seen(dying, tmp_path)
    assert sent.returncode == 0, sent.stderr
    assert {stage: rows_of(run, stage) for stage in SPECS} == {
        stage: list(range(1, steps + 1)) for stage, steps in STEPS.items()
    }


PUBLISH = """
import sys, wandb
run = wandb.init(project=sys.argv[1], id="dataset")
artifact = wandb.Artifact("of-a-run", type="dataset")
artifact.add_file(sys.argv[2], name="burgers.hdf5")
run.log_artifact(artifact).wait()
run.finish()
"""


def test_a_run_trains_on_a_file_of_a_wandb_artifact(
    tmp_path, straight, wandb_server, wandb_environment, tracked_pipeline
):
    [source] = (straight / "data").glob("1D_*")
    published = command("-c", PUBLISH, **wandb_environment)(PROJECT, str(source), cwd=tmp_path)
    assert published.returncode == 0, published.stderr
    sha256 = digest_of(source).sha256

    def train(name):
        download = f"{{url: 'wandb-artifact://{ENTITY}/{PROJECT}/{name}', sha256: {sha256}}}"
        only = ("--stage", "operator", "--set", f"data.downloads=[{download}]")
        return tracked_pipeline(*SMOKE, *TRAIN_ONLY, *only, "--run-dir", name.replace(":", "/"), cwd=tmp_path)

    done, absent = train("of-a-run:v0/burgers.hdf5"), train("absent:v0/burgers.hdf5")
    misspelled = train("of-a-run:v0/burger.hdf5")

    assert done.returncode == 0, done.stderr
    assert digest_of(tmp_path / "of-a-run/v0/burgers.hdf5/data/burgers.hdf5").sha256 == sha256
    assert absent.returncode == 2
    assert "is not in W&B" in absent.stderr
    assert misspelled.returncode == 2
    assert "of-a-run:v0 holds no burger.hdf5 (it holds burgers.hdf5)" in misspelled.stderr


def test_no_key_is_found_anywhere(straight, wandb_server, prefect_server):
    secret = CANARY_KEY.encode()

    assert wandb_server.saw(secret) == []
    found = [path for path in straight.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert found == []
    [database] = ROOT.__class__(prefect_server["PREFECT_HOME"]).glob("prefect.db")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        assert not [line for line in connection.iterdump() if CANARY_KEY in line]
