"""A damaged file that a run can do without costs itself, and is told by name; one that it needs is refused."""

import os
import shutil
from pathlib import Path

import pytest

from tasks.services.checkpoints.sets import verify_set
from tasks.services.data.digests import digest_in
from tasks.services.rental.journal import Journal
from tasks.services.run.attempts import ChainRun, recorded
from tasks.services.run.history import History
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Status, text_of
from tasks.services.tracking.restoring import check
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.result import read_result
from ups_models.files import digest_of


@pytest.fixture
def here(tmp_path):
    """A run without anything in it."""
    (tmp_path / "reports").mkdir()
    return RunDir.of(tmp_path, Path("checkpoints"))


def test_rows_that_are_none_cost_themselves_and_are_told(here, caplog):
    here.history.write_text(
        '{"stage": "operator", "step": 1, "loss": 0.5}\n'
        '{"stage": "operator", "step": [1]}\n{"stage": {}, "step": 2}\n'
        '{"stage": "operator", "step": 3, "loss": "low"}\n\x00\x00\n[1]\n' + "[" * 5000 + "\n",
        encoding="utf-8",
    )

    assert History(here).read() == {"operator": [{"step": 1, "loss": 0.5}]}
    assert [message.partition("metrics.jsonl: ")[2] for message in caplog.messages] == [
        "3 lines are damaged and left out",
        "3 rows are none of ours and left out",
    ]


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_a_history_that_is_no_file_is_moved_aside_and_begun_anew(here, tmp_path, caplog, kind):
    other = tmp_path / "other"
    other.write_text("mine\n", encoding="utf-8")
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to(other)}[kind](here.history)

    assert History(here).read() == {}
    History(here).append("operator", {"step": 1, "loss": 0.5})

    assert History(here).read() == {"operator": [{"step": 1, "loss": 0.5}]}
    assert other.read_text("utf-8") == "mine\n"
    assert all(str(here.history) in message for message in caplog.messages)
    assert "moved to metrics.jsonl.damaged, and begun anew" in caplog.text


@pytest.mark.parametrize("state", ["operator.pt", "operator.previous.pt"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_stands_in_the_place_of_a_saved_state_is_moved_aside(here, caplog, kind, state):
    path = here.checkpoints / "resume" / state
    path.parent.mkdir(parents=True)
    for _ in range(2):
        {"pipe": os.mkfifo, "folder": os.mkdir}[kind](path)
        with owned(here):
            assert not path.exists()

    assert sorted(item.name for item in path.parent.iterdir()) == [f"{state}.damaged", f"{state}.damaged1"]
    assert f"{path}: is a" in caplog.text


def test_damaged_attempts_do_not_stop_the_next_one(tmp_path, own):
    run = own(RunDir.of(tmp_path, Path("checkpoints")))
    run.reports.mkdir()
    run.chain_runs.write_text(
        '{"chain": "c"}\n{"chain": "c", "attempt": "x", "time": {}}\nnonsense\n', encoding="utf-8"
    )

    with recorded(run, ChainRun("c", "b", 1, 9, 9)) as wait_s:
        assert wait_s == 0


def test_a_damaged_journal_is_refused_because_machines_may_cost(tmp_path):
    path = tmp_path / "rented.jsonl"
    path.write_text('{"event": "renting", "generation": 1}\n', encoding="utf-8")
    with pytest.raises(BadInput, match=r"rented\.jsonl: entry 1 is none of a launch .*machines may still cost"):
        Journal(path)

    path.unlink()
    path.mkdir()
    with pytest.raises(BadInput, match=r"rented\.jsonl: is a folder"):
        Journal(path)


def test_a_digest_beside_a_data_file_that_is_damaged_is_made_again(tmp_path):
    data = tmp_path / "a.hdf5"
    data.write_bytes(b"x")
    (tmp_path / ".a.hdf5.digest.json").write_text("[" * 5000, encoding="utf-8")

    assert digest_in(data) == digest_of(data)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[" * 100_000, "nested"), (b"\xff", "no UTF-8"), (b'{"checks": 3}', "checks"), (b'{"gates": [3]}', "")],
)
def test_a_damaged_evaluation_is_named(tmp_path, content, reason):
    path = tmp_path / "small_eval.json"
    path.write_bytes(content)

    with pytest.raises(BadInput, match=rf"small_eval\.json: holds no evaluation \(.*{reason}.*\); evaluate again"):
        read_result(path)


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_link_among_what_was_downloaded_is_refused(tmp_path, has_manifest):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "stage_status.json").write_text(text_of(Status()), encoding="utf-8")
    (folder / "operator.pt").symlink_to("/etc/passwd")
    if has_manifest:
        digest = digest_of(folder / "stage_status.json")
        manifest = f'{{"stage_status.json": {{"sha256": "{digest.sha256}", "bytes": {digest.bytes}}}}}'
        (folder / "manifest.json").write_text(manifest, encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"a set: operator\.pt arrived as a link"):
        check(folder, "a set", PipelineConfig())


def test_a_manifest_nested_too_deep_is_refused_by_its_origin(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000, encoding="utf-8")

    with pytest.raises(CheckpointError, match=r"a set: its manifest cannot be read .*nested more than 64 deep"):
        verify_set(tmp_path, PipelineConfig(), "a set")


def test_a_status_of_an_old_run_that_cannot_be_used_is_told(tmp_path, caplog, smoke, finished_run):
    shutil.copy(finished_run / "checkpoints" / "operator.pt", tmp_path)
    (tmp_path / "stage_status.json").write_bytes(b"\xff" * 10)

    restored = check(tmp_path, "an old run", smoke)

    assert restored.status.stages == {}
    assert "byte 0 (0xff) is no UTF-8 text" in caplog.text
