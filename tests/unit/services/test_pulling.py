"""What a W&B run holds, brought into a folder for a reader: verified, complete, and never over what is newer."""

import json
from hashlib import sha256

import pytest

from tasks.services.checkpoints.report_sets import RESULTS
from tasks.services.run.config_file import kept_config
from tasks.services.run.paths import MANIFEST, RunDir
from tasks.services.run.status import StatusStore, read_status
from tasks.services.stages.reporting import report_of
from tasks.services.tracking.opening import tracked
from tasks.services.tracking.pulling import pull
from tasks.services.tracking.restoring import RunNotFound
from tasks.services.tracking.run_path import ResumeTarget, RunPath
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, CheckpointError

RUN = RunPath("r1", "ups-pipeline", "researcher")
RESUME = ResumeTarget(path=RUN)


@pytest.fixture
def uploaded(wandb, online, run, smoke_payload):
    """A finished run that W&B has: rows, checkpoints and report."""
    with tracked(online, run, RESUME, client=wandb) as tracker:
        for stage in read_status(run.status).stages:
            tracker.completed(stage)
        tracker.report(lambda: smoke_payload)
    return run


@pytest.fixture
def brought(wandb, online, tmp_path):
    """Pull it into a folder of its own."""

    def bring(**options):
        return pull(RUN, tmp_path / "here", online.tracking, client=wandb, **options)

    return bring


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file() and path.name in RESULTS}


def test_code_of_the_users_comes_with_the_checkpoints(wandb, online, run, brought):
    run.code.write_text('{"net.py": {"net.py": "SIZE = 3"}}')
    with tracked(online, run, RESUME, client=wandb) as tracker:
        for stage in read_status(run.status).stages:
            tracker.completed(stage)

    pulled = brought(trusted=["net.py"])

    assert pulled.run.code.read_text() == run.code.read_text()
    with pytest.raises(BadInput, match=r"--trust-code 'other\.py': .*code\.json holds no such file, but \['net\.py'\]"):
        brought(trusted=["other.py"])


@pytest.mark.usefixtures("uploaded")
def test_weights_history_evaluations_and_report_arrive_as_they_were(brought, uploaded):
    pulled = brought()

    there, here = read_status(uploaded.status), read_status(pulled.run.status)
    assert there.upload is not None
    assert pulled.checkpoints == f"ckpt-r1:{there.upload.version}"
    assert pulled.report == "report-r1:v0"
    assert here.stages == there.stages
    assert here.evaluations == there.evaluations
    assert here.wandb is not None
    assert here.wandb.id == "r1"
    assert content_of(pulled.run.reports) == content_of(uploaded.reports)
    assert len(content_of(pulled.run.reports)) == len(RESULTS)
    assert pulled.run.history.read_bytes() == uploaded.history.read_bytes()


@pytest.mark.usefixtures("uploaded")
def test_what_arrived_renders_the_same_report(brought, uploaded):
    pulled = brought()

    assert report_of(pulled.run).evaluations == report_of(uploaded).evaluations


@pytest.mark.usefixtures("uploaded")
def test_the_config_that_wandb_keeps_is_kept_here(brought, online):
    kept = kept_config(brought().run)

    assert kept is not None
    assert load_config(kept, schema=PipelineConfig) == online


@pytest.mark.usefixtures("uploaded")
def test_a_second_pull_changes_nothing(brought):
    first = brought()
    before = first.run.status.read_bytes()

    second = brought()

    assert (second.checkpoints, second.report, second.kept) == (None, None, "those here are as new")
    assert second.run.status.read_bytes() == before


@pytest.mark.usefixtures("uploaded")
def test_an_evaluation_that_is_newer_here_is_kept_unless_forced(brought, own):
    run = brought().run
    path = run.result("small_eval")
    path.write_text("{}", encoding="utf-8")
    with_newer = StatusStore(own(run))
    with_newer.record_evaluation("small_eval", completed_at="2999-01-01T00:00:00Z")
    with_newer.run.lock_file.close()

    brought()
    kept = path.read_text("utf-8")
    brought(force=True)

    assert kept == "{}"
    assert path.read_text("utf-8") != "{}"


@pytest.mark.usefixtures("uploaded")
def test_evaluations_of_other_weights_than_those_here_are_not_brought(brought, wandb):
    [report] = wandb.collections["researcher/ups-pipeline/report-r1"]
    raw = json.loads(report.files["stage_status.json"])
    raw["evaluations"]["full_eval"]["inputs"]["operator.pt"] = "0" * 64
    raw["evaluations"]["full_eval"]["inputs"]["operator_ema.pt"] = "0" * 64
    replace(report, "stage_status.json", json.dumps(raw).encode())

    pulled = brought()

    assert pulled.report is None
    assert "of another operator" in pulled.kept
    assert not pulled.run.report.exists()


def replace(artifact, name, content):
    """Change a file of a set, with its digest in the manifest."""
    manifest = json.loads(artifact.files[MANIFEST])
    manifest[name] = {"sha256": sha256(content).hexdigest(), "bytes": len(content)}
    artifact.files |= {name: content, MANIFEST: json.dumps(manifest).encode()}


@pytest.mark.usefixtures("uploaded")
def test_a_report_that_arrives_damaged_is_refused_and_nothing_of_it_is_used(brought, wandb, tmp_path):
    [report] = wandb.collections["researcher/ups-pipeline/report-r1"]
    report.files["report.html"] = b"other"

    with pytest.raises(CheckpointError, match=r"report\.html did not arrive as it was saved"):
        brought()

    assert not (tmp_path / "here" / "reports" / "report.html").exists()


@pytest.mark.usefixtures("uploaded")
def test_a_set_of_another_name_than_a_report_holds_is_refused(brought, wandb):
    [report] = wandb.collections["researcher/ups-pipeline/report-r1"]
    replace(report, "../escape", b"x")

    with pytest.raises(CheckpointError, match="does not belong"):
        brought()


def test_an_unchanged_report_is_uploaded_under_one_name_and_only_the_newest_is_kept(
    wandb, online, uploaded, smoke_payload
):
    with tracked(online, uploaded, RESUME, client=wandb) as tracker:
        tracker.report(lambda: smoke_payload)

    first, second = wandb.collections["researcher/ups-pipeline/report-r1"]
    assert first.files == second.files
    assert (first.deleted, second.aliases) == (True, ["latest"])


def test_a_run_that_wandb_does_not_have_is_named(brought):
    with pytest.raises(RunNotFound, match="WandB run not found: researcher/ups-pipeline/r1"):
        brought()


def test_a_run_without_checkpoints_is_for_later(brought, wandb, online):
    wandb.add("r1").config |= online.model_dump(mode="json")

    with pytest.raises(BadInput, match="holds no checkpoints yet"):
        brought()


def test_a_config_that_cannot_be_read_asks_for_the_right_one(brought, wandb):
    wandb.add("r1").config |= {"latent": {"dim": "many"}}

    with pytest.raises(BadInput, match=r"latent\.dim.*--config FILE"):
        brought()


def test_a_launch_whose_machine_has_not_begun_is_read_by_what_was_launched(brought, wandb, online):
    wandb.add("r1").config |= {"launched": online.model_dump(mode="json")}

    with pytest.raises(BadInput, match="holds no checkpoints yet"):
        brought()


@pytest.mark.usefixtures("uploaded")
def test_checkpoints_go_into_the_folder_that_was_named_whatever_the_run_says(brought, wandb, tmp_path):
    wandb.runs[str(RUN)].config["checkpoint"]["dir"] = str(tmp_path / "elsewhere")

    pulled = brought()

    assert pulled.run.checkpoints == RunDir.of(tmp_path / "here", pulled.run.checkpoints).checkpoints
    assert pulled.run.checkpoints == tmp_path / "here" / "checkpoints"
    assert not (tmp_path / "elsewhere").exists()
