"""What we say to W&B and what we make of its answers: runs, sets of checkpoints, fences, and W&B that is not there."""

import base64
import json
import logging

import pytest

from tasks.services.checkpoints.sets import take_snapshot, verify_set, write_manifest
from tasks.services.checkpoints.uploads import UploadFailed
from tasks.services.run.history import History
from tasks.services.run.paths import MANIFEST, STATUS, RunDir
from tasks.services.run.status import StatusStore, WandbRecord, read_status
from tasks.services.tracking.coordination import WandbCoordination, find_run
from tasks.services.tracking.opening import tracked
from tasks.services.tracking.protocols import FencedOut, ReportPayload, TrackingUnavailable
from tasks.services.tracking.restoring import RunNotFound, fetch, look_up, put_in_place
from tasks.services.tracking.run_path import ExistingRun, ResumeTarget, RunPath
from tasks.services.tracking.store import WandbStore, download_artifact_file
from tasks.services.tracking.wandb_client import open_session
from ups_models.errors import BadInput, DataError

PATH = RunPath("r1", "ups-pipeline", "researcher")
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4AAAAAElFTkSuQmCC")
GONE = ConnectionError("connection refused")


@pytest.fixture
def store(wandb, online, run):
    """The sets of an open run."""
    session = open_session(PATH, exists=False, config={}, run=run, cfg=online.tracking, client=wandb)
    return WandbStore(session.path, online.tracking, wandb, session)


@pytest.fixture
def folder(run, tmp_path):
    """A set of a finished run."""
    take_snapshot(run, tmp_path / "set")
    write_manifest(tmp_path / "set")
    return tmp_path / "set"


def put_back(run, stage="steady_prior"):
    """Make a stage of the run unfinished."""
    raw = json.loads(run.status.read_text("utf-8"))
    raw["stages"][stage].update(status="in_progress", step=1, files=None)
    run.status.write_text(json.dumps(raw), encoding="utf-8")


# ---------------------------------------------------------------------------------------------------- one tracked run


def test_a_new_run_gets_its_config_every_row_and_a_set_under_each_stage_s_name(wandb, online, run):
    with tracked(online, run, ResumeTarget(), client=wandb) as tracker:
        tracker.begin("operator")
        tracker.completed("operator")

    record, upload = read_status(run.status).wandb, read_status(run.status).upload
    assert record is not None
    assert upload is not None
    opened = wandb.runs[f"researcher/ups-pipeline/{record.id}"]
    assert record.url == opened.url
    assert opened.config["latent"]["dim"] == online.latent.dim
    assert opened.config["code"]
    assert len(opened.rows) == sum(map(len, History(run).read().values()))
    assert opened.exit_codes == [0]
    [version] = wandb.sets_of(record.id)
    assert version.aliases == ["latest", "operator"]
    assert upload.version == "v0"


def test_a_run_is_resumed_in_wandb_and_nothing_is_sent_twice(wandb, online, run):
    for _ in range(2):
        with tracked(online, run, ResumeTarget(), client=wandb) as tracker:
            tracker.begin("operator")

    [opened] = wandb.runs.values()
    assert [how["resume"] for how in wandb.opened] == ["never", "must"]
    assert len(opened.rows) == sum(map(len, History(run).read().values()))


@pytest.mark.parametrize(("error", "exit_codes", "preempting"), [(ValueError, [1], False), (SystemExit, [143], True)])
def test_how_a_run_ends_is_seen_in_wandb(wandb, online, run, error, exit_codes, preempting):
    with pytest.raises(error), tracked(online, run, ResumeTarget(), client=wandb):
        raise error

    [opened] = wandb.runs.values()
    assert (opened.exit_codes, opened.preempting) == (exit_codes, preempting)


def test_a_disabled_run_asks_nobody(wandb, online, run):
    wandb.down = AssertionError("W&B was asked")
    disabled = online.model_copy(update={"tracking": online.tracking.model_copy(update={"mode": "disabled"})})

    with tracked(disabled, run, ResumeTarget(), client=wandb) as tracker:
        tracker.row("operator", {"step": 1})

    assert read_status(run.status).wandb is None
    assert tracker.loggers == {}


def test_an_offline_run_asks_nobody_and_knows_its_id(wandb, online, run, caplog):
    wandb.down = AssertionError("W&B was asked")
    offline = online.model_copy(update={"tracking": online.tracking.model_copy(update={"mode": "offline"})})

    records = []
    for _ in range(2):
        with tracked(offline, run, ResumeTarget(), client=wandb):
            records.append(read_status(run.status).wandb)

    assert records[0] is not None
    assert records[0] == records[1]
    assert "`ups sync" in caplog.text


def test_while_wandb_is_away_training_continues_and_keeps_everything_here(wandb, online, run, caplog):
    wandb.down = GONE

    with tracked(online, run, ResumeTarget(), client=wandb) as tracker:
        tracker.row("operator", {"step": 1})

    assert "connection refused" in caplog.text
    assert "everything is kept on this machine" in caplog.text


def test_a_rented_machine_does_not_train_without_wandb(wandb, online, run, monkeypatch):
    monkeypatch.setenv("UPS_GENERATION", "1")
    wandb.down = GONE

    with pytest.raises(TrackingUnavailable), tracked(online, run, ResumeTarget(), client=wandb):
        pass


def test_an_older_copy_does_not_hide_what_was_trained_since(wandb, online, run, store, folder):
    store.publish(folder, ())
    StatusStore(run).record_wandb(WandbRecord(id="r1", project="ups-pipeline", entity="researcher"))
    put_back(run)

    with (
        pytest.raises(BadInput, match="further than these, trained elsewhere"),
        tracked(online, run, ResumeTarget(), client=wandb),
    ):
        pass
    with tracked(online, run, ResumeTarget(allow_older=True), client=wandb):
        pass


def test_checkpoints_of_another_run_are_tracked_in_a_run_that_names_it(wandb, online, run):
    StatusStore(run).record_wandb(WandbRecord(id="before", project="ups-pipeline", entity="researcher"))
    target = ResumeTarget(RunPath("new", "ups-pipeline", "researcher"), source="researcher/p/other")

    with tracked(online, run, target, client=wandb):
        pass

    record = read_status(run.status).wandb
    assert record is not None
    assert (record.id, record.source) == ("new", "researcher/p/other")


# ------------------------------------------------------------------------------------------------------ sets and files


def test_only_the_newest_sets_are_kept_and_those_of_completed_stages(wandb, store, folder):
    for aliases in (("operator",), (), (), ()):
        store.publish(folder, aliases)

    assert [version.deleted for version in wandb.sets_of("r1")] == [False, True, True, False]
    assert store.status().is_trained()


def test_old_sets_that_cannot_be_deleted_are_a_warning(wandb, store, folder, monkeypatch, caplog):
    monkeypatch.setattr(wandb, "artifacts", None)

    assert store.publish(folder, ()) == "v0"

    assert "old versions of ckpt-r1 could not be deleted" in caplog.text


def test_a_set_counts_only_when_wandb_has_committed_it(wandb, store, folder):
    wandb.state_after_upload = "PENDING"

    with pytest.raises(UploadFailed, match="the set is PENDING, not COMMITTED"):
        store.publish(folder, ())


def test_what_the_client_raises_is_an_upload_that_failed(store, folder, monkeypatch):
    monkeypatch.delattr(type(store.session.run), "log_artifact")

    with pytest.raises(UploadFailed, match="ckpt-r1 was not uploaded to W&B"):
        store.publish(folder, ())


def test_a_run_that_is_not_open_takes_no_set(wandb, online, folder):
    with pytest.raises(UploadFailed, match="not open for writing"):
        WandbStore(PATH, online.tracking, wandb).publish(folder, ())


def test_a_machine_that_was_given_up_publishes_nothing(wandb, store, folder, monkeypatch):
    monkeypatch.setenv("UPS_GENERATION", "1")
    coordination = WandbCoordination(PATH, store.cfg, wandb)

    coordination.acquire_fence(1)
    store.publish(folder, ())
    coordination.acquire_fence(2)

    with pytest.raises(FencedOut, match="a later machine has taken over"):
        store.publish(folder, ())
    assert len(wandb.sets_of("r1")) == 1


def test_names_that_do_not_belong_in_a_set_are_not_downloaded(wandb, store, folder, tmp_path, caplog):
    store.publish(folder, ())
    wandb.sets_of("r1")[0].files["../outside.pt"] = b"x"

    name = store.download_set(tmp_path / "a" / "b")

    assert name == "ckpt-r1:v0"
    assert (tmp_path / "a" / "b" / MANIFEST).is_file()
    assert not (tmp_path / "a" / "outside.pt").exists()
    assert "'../outside.pt' does not belong in a set" in caplog.text


def test_a_run_without_sets_has_no_status_and_nothing_to_download(wandb, store, tmp_path):
    assert store.status() is None
    assert store.download_set(tmp_path) is None


@pytest.mark.parametrize("call", ["status", "download_set", "download_files"])
def test_a_server_in_trouble_is_not_taken_for_an_empty_one(wandb, store, tmp_path, call):
    wandb.down = GONE

    with pytest.raises(TrackingUnavailable, match="connection refused"):
        getattr(store, call)(*([] if call == "status" else [tmp_path]))


def test_an_artifact_s_file_is_downloaded_or_named_as_absent(wandb, online, tmp_path):
    wandb.add_artifact("e/p/data", {"burgers.hdf5": b"fields"})
    target = tmp_path / "burgers.hdf5"

    download_artifact_file("e/p/data:v0/burgers.hdf5", target, online.tracking, wandb)

    assert target.read_bytes() == b"fields"
    for absent, said in (("v0/other.hdf5", "holds no other.hdf5"), ("v7/burgers.hdf5", "is not in W&B at")):
        with pytest.raises(DataError, match=said):
            download_artifact_file(f"e/p/data:{absent}", target, online.tracking, wandb)
    wandb.down = GONE
    with pytest.raises(TrackingUnavailable, match="could not be downloaded"):
        download_artifact_file("e/p/data:v0/burgers.hdf5", target, online.tracking, wandb)


def test_a_report_is_one_row_with_page_tables_and_figures(store, tmp_path):
    metrics = {"small_eval": {"rollout/mean": 0.5}}

    store.session.report(ReportPayload(metrics, {"rollout": PNG}, "<p>page</p>"), tmp_path / "media")

    [row] = store.session.run.rows
    assert row.keys() == {"report", "small_eval/metrics", "figures/rollout"}
    assert row["small_eval/metrics"].data == [["rollout/mean", 0.5]]
    assert store.session.run.summary["small_eval/rollout/mean"] == 0.5


# -------------------------------------------------------------------------------------------------------- coordination


def test_progress_is_read_from_afar(wandb, online):
    run = wandb.add("r1")
    coordination = WandbCoordination(PATH, online.tracking, wandb)
    before = coordination.progress()

    coordination.acquire_fence(2)
    run.summary |= {"operator/step": 30, "diff_residual/step": 7.0, "steady_prior/step": "seven"}
    coordination.record_exit(2, 75)

    assert (before.generation, before.outcome, before.stage, before.step) == (0, None, "", 0)
    after = coordination.progress()
    assert (after.generation, after.outcome, after.stage, after.step) == (2, (2, 75), "diff_residual", 7)
    assert after.state == "running"


def test_how_an_earlier_machine_ended_is_forgotten_and_cannot_be_recorded_late(wandb, online):
    wandb.add("r1")
    coordination = WandbCoordination(PATH, online.tracking, wandb)
    coordination.acquire_fence(1)
    coordination.record_exit(1, 0)

    coordination.acquire_fence(2)
    coordination.record_exit(1, 1)

    assert coordination.progress().outcome is None


@pytest.mark.parametrize(("own", "fenced_out"), [(None, False), ("2", False), ("1", True)])
def test_only_a_later_machine_fences_out(wandb, online, monkeypatch, own, fenced_out):
    wandb.add("r1")
    coordination = WandbCoordination(PATH, online.tracking, wandb)
    coordination.acquire_fence(2)
    if own is not None:
        monkeypatch.setenv("UPS_GENERATION", own)

    if not fenced_out:
        return coordination.check_fence()
    with pytest.raises(FencedOut):
        coordination.check_fence()
    return None


@pytest.mark.parametrize("call", ["acquire_fence", "record_exit", "progress"])
def test_a_run_that_cannot_be_asked_is_unavailable(wandb, online, call):
    wandb.down = GONE
    arguments = {"acquire_fence": (1,), "record_exit": (1, 0), "progress": ()}[call]

    with pytest.raises(TrackingUnavailable, match=r"researcher/ups-pipeline/r1 .*connection refused"):
        getattr(WandbCoordination(PATH, online.tracking, wandb), call)(*arguments)


def test_a_run_that_is_not_there_is_not_confused_with_a_server_that_does_not_answer(wandb, online, monkeypatch):
    wandb.add("r1").summary |= {"operator/step": 3, "global_step": 3, "operator/started_at": "t", "other": 1}

    found = find_run(RunPath("r1", "ups-pipeline"), online.tracking, wandb)

    assert found is not None
    assert found.path == PATH
    assert found.sent == {"operator/step": 3, "global_step": 3, "operator/started_at": "t"}
    assert found.record().url == "https://wandb/r1"
    assert find_run(RunPath("other", "ups-pipeline"), online.tracking, wandb) is None
    wandb.down = GONE
    with pytest.raises(TrackingUnavailable, match="WANDB_API_KEY is not set"):
        find_run(PATH, online.tracking, wandb)


# ------------------------------------------------------------------------------------------------------------ restoring


def test_a_missing_run_is_begun_or_refused_as_the_mode_says(wandb, online, monkeypatch, caplog):
    monkeypatch.setenv("WANDB_API_KEY", "k")

    assert look_up(PATH, "allow", online, wandb) is None
    assert "a new run with this id begins" in caplog.text
    for mode in ("must", "never"):
        with pytest.raises(RunNotFound, match=r"researcher/ups-pipeline/r1 at https.*WANDB_API_KEY is set"):
            look_up(PATH, mode, online, wandb)
    wandb.add("r1")
    assert look_up(PATH, "must", online, wandb) is not None


def test_the_newest_set_is_fetched_before_files_of_an_old_version(wandb, online, store, folder, run):
    store.publish(folder, ())

    fetched = fetch(found(), "must", online, run, store)

    assert fetched == (run.staging / "restore", "ckpt-r1:v0")
    assert (run.staging / "restore" / STATUS).is_file()


def test_files_of_an_old_version_are_fetched_where_there_is_no_set(wandb, online, store, run, caplog):
    wandb.add_files(PATH, "checkpoints/operator.pt", "operator.pt", "checkpoints/other.pt", "config.yaml")

    fetched = fetch(found(), "must", online, run, store)

    assert fetched == (run.staging / "restore", f"files of {PATH}")
    assert [path.name for path in (run.staging / "restore").iterdir()] == ["operator.pt"]
    assert "files of an old version" in caplog.text


def test_a_run_without_checkpoints_trains_anew_unless_it_must_not(wandb, online, store, run, caplog):
    assert fetch(found(), "allow", online, run, store) is None
    assert "holds no checkpoints yet" in caplog.text
    assert not (run.staging / "restore").exists()

    with pytest.raises(BadInput, match="holds no checkpoints, so training would begin anew"):
        fetch(found(), "must", online, run, store)


def test_a_set_that_is_no_further_is_not_installed(online, folder, run, caplog):
    caplog.set_level(logging.INFO)
    restored = verify_set(folder, online, "ckpt-r1:v0")

    assert not put_in_place(restored, found(), "allow", run, force=False)

    assert "which is kept" in caplog.text
    assert not folder.exists()


@pytest.mark.parametrize(("mode", "run_id"), [("allow", "r1"), ("never", None)])
def test_an_installed_set_names_its_run_unless_another_is_to_be_tracked(online, folder, tmp_path, own, mode, run_id):
    new = own(RunDir.of(tmp_path / "new", online.checkpoint.dir))

    assert put_in_place(verify_set(folder, online, "ckpt-r1:v0"), found(), mode, new, force=False)

    status = read_status(new.status)
    assert status.is_trained()
    assert (status.wandb.id if status.wandb else None) == run_id


def found():
    return ExistingRun(PATH, "r1", "https://wandb/r1", {})
