"""What Prefect's UI shows of a run; a server that does not answer holds up nothing."""

import json
import re
import shutil
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.prefect import artifacts
from flows.prefect.artifacts import Artifact, ArtifactLogger, ArtifactSender, RemoteStages, cells_of, key_ending
from tasks.services.run.paths import RunDir
from tasks.services.stages import overview as overview_module
from tasks.services.stages.overview import overview_of, report_in
from tasks.services.stages.reporting import write_report
from tasks.services.tracking.protocols import TrackingUnavailable
from ups_models.stages.spec import SPECS

WITHIN_S = 60


@pytest.fixture
def run(tmp_path, finished_run, smoke):
    """A copy of a finished run."""
    shutil.copytree(finished_run, tmp_path / "run")
    return RunDir.of(tmp_path / "run", smoke.checkpoint.dir)


class FakeSender:
    """Keeps the newest artifact of each key."""

    def __init__(self):
        self.artifacts, self.closed = {}, False

    def put(self, key, artifact):
        self.artifacts[key] = artifact

    def put_stages(self, rows, description):
        self.artifacts["stage-status"] = rows

    def put_labels(self, labels):
        self.labels = labels

    def close(self):
        self.closed = True


def test_a_finished_run_is_shown_with_its_results_and_files(run, smoke):
    rows = {row["stage"]: row for row in cells_of(overview_of(run, smoke))}

    assert list(rows) == [*SPECS, "small_eval", "full_eval"]
    assert rows["operator"]["checkpoint"] == "operator_ema.pt"
    assert rows["operator"]["step"] == "30 of 30, epoch 3 of 3"
    assert rows["small_eval"]["result"].startswith("nRMSE 0.")
    assert {len(row) for row in rows.values()} == {7}


def test_a_run_that_has_not_begun_is_shown_too(tmp_path, smoke):
    rows = cells_of(overview_of(RunDir.of(tmp_path, smoke.checkpoint.dir), smoke))

    assert {row["status"] for row in rows} == {"not_started"}


def test_a_failed_stage_says_so(run, smoke):
    text = run.status.read_text("utf-8")
    status = json.loads(text)
    status["stages"]["steady_prior"] |= {"status": "failed", "error_message": "boom"}
    run.status.write_text(json.dumps(status), encoding="utf-8")

    rows = {row["stage"]: row for row in cells_of(overview_of(run, smoke))}

    assert rows["steady_prior"]["status"] == "failed"
    assert rows["steady_prior"]["checkpoint"] == "\N{EN DASH}"


def test_the_report_can_be_read_without_its_files_every_evaluation_and_every_picture(run):
    write_report(run)
    page, text = run.report.read_text("utf-8"), report_in(run)

    for name in ("full_eval", "small_eval"):
        assert (run.reports / f"{name}.md").read_text("utf-8") in text
    assert re.findall(r'src="(data:image[^"]+)"', page) == re.findall(r"!\[.+\]\((data:image.+)\)", text) != []
    assert re.findall(r"^## (.+)$", text.partition("\n## Space and time")[2], re.MULTILINE)[0] == "A rollout in motion"


def test_pictures_that_are_too_many_for_a_server_are_left_in_the_report(run, monkeypatch):
    write_report(run)
    monkeypatch.setattr(overview_module, "MAX_PICTURES", 100)

    assert "data:image" not in report_in(run)
    assert "The pictures are too large to be shown here; open the HTML report." in report_in(run)


def test_bars_grow_and_are_full_when_a_stage_is_done(run, smoke):
    sender: Any = FakeSender()
    shown = ArtifactLogger(sender, smoke, run)

    shown.row("operator", {"step": 15, "loss": 0.5})
    half = sender.artifacts["operator"]
    shown.row("operator", {"step": 16, "loss": 0.4})  # so soon after the last one it is not shown
    unchanged = sender.artifacts["operator"]
    shown.completed("operator")

    assert (half.kind, half.data, half.description) == ("progress", 50, "operator: step 15 of 30, loss 0.5")
    assert unchanged is half
    assert sender.artifacts["operator"].data == 100


def test_a_bar_tells_rate_and_time_left_once_they_are_known(run, smoke, monkeypatch):
    sender: Any = FakeSender()
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("flows.prefect.artifacts.time.monotonic", lambda: next(clock))
    shown = ArtifactLogger(sender, smoke, run)

    shown.begin("operator")
    for step in (10, 20):
        shown.row("operator", {"step": step, "loss": 0.5})

    text = sender.artifacts["operator"].description
    found = re.fullmatch(r"operator: step 20 of 30, loss 0.5, (.*) steps/s, (.*) s left", text)
    assert found is not None, text
    assert float(found[1]) * float(found[2]) == pytest.approx(10, rel=0.2)


def test_the_report_is_shown_when_it_is_written_and_the_table_once_more_at_the_end(run, smoke):
    sender: Any = FakeSender()
    logger = ArtifactLogger(sender, smoke, run)

    logger.report(lambda: pytest.fail("the figures of the whole report are not needed"))
    reported = sender.artifacts.pop("pipeline-report")
    sender.artifacts.clear()
    logger.close(failed=False)

    assert "](data:image/svg+xml;base64," in reported.data
    assert sender.artifacts.keys() == {"stage-status", "pipeline-report"}
    assert sender.closed


FACTS = {"instance": 1, "generation": 2, "stage": "operator", "step": 12, "usd_per_hour": 0.2, "spent_usd": 0.1}


def test_the_stages_of_a_training_elsewhere_are_shown_from_what_wandb_holds(smoke):
    sender: Any = FakeSender()
    asked = []
    stages = RemoteStages(sender, smoke, lambda: asked.append(1))

    stages("SEARCHING", {"attempt": 1})
    for step in (12, 13):
        stages("RUNNING", {**FACTS, "step": step})

    row = sender.artifacts["stage-status"][0]
    assert (row["stage"], row["status"], row["step"]) == ("operator", "in_progress", "12 of 30")
    assert len(asked) == 1


def test_wandb_that_does_not_answer_changes_nothing_in_the_table(smoke):
    sender: Any = FakeSender()

    def silent():
        raise TrackingUnavailable("W&B could not be asked")

    RemoteStages(sender, smoke, silent)("RUNNING", FACTS)

    assert sender.artifacts == {}


NOBODY_LISTENS = {PREFECT_API_URL: "http://127.0.0.1:9/api"}


def test_a_server_that_does_not_answer_holds_up_nothing(prefect_api):
    asked, answer = threading.Event(), threading.Event()

    def silent():
        asked.set()
        answer.wait(WITHIN_S)
        return httpx.Response(400)

    prefect_api.refusals["artifacts"] = silent
    sender = ArtifactSender(uuid4(), Path("run"), close_within_s=0.1)
    sender.put("one", Artifact("markdown", "text", "description"))
    assert asked.wait(WITHIN_S)
    for key in ("two", "one", "two"):
        sender.put(key, Artifact("markdown", "text", "description"))
    sender.close()

    assert sender.busy  # it still waits for the answer
    answer.set()

    sender.thread.join(WITHIN_S)
    assert not sender.thread.is_alive()  # nothing is begun once it is closed


class FakeClient:
    """Takes artifacts. Prefect's own client would tell of each by an event, for which it starts a server."""

    def __init__(self):
        self.created, self.updated = [], []

    def create_artifact(self, artifact):
        self.created.append(artifact)
        return SimpleNamespace(id=uuid4())

    def update_artifact(self, artifact_id, artifact):
        self.updated.append(artifact)


def test_an_artifact_is_made_once_and_then_updated(monkeypatch):
    client = FakeClient()
    monkeypatch.setattr(artifacts, "get_client", lambda sync_client: nullcontext(client))
    sender = ArtifactSender(uuid4(), Path("run"), close_within_s=WITHIN_S)
    for text in ("first", "second"):
        sender.put("one", Artifact("markdown", text, "description"))
        with sender.changed:
            assert sender.changed.wait_for(lambda: not sender.waiting and not sender.busy, WITHIN_S)
    sender.close()

    [made] = client.created
    assert (made.key, made.data) == (f"one-{key_ending(Path('run'))}", "first")
    assert made.flow_run_id == sender.flow_run_id
    assert [one.data for one in client.updated] == ["second"]


def test_the_keys_of_two_run_directories_differ_though_both_have_one_name():
    endings = [key_ending(Path(path)) for path in ("/a/Run_7 (new)", "/b/Run_7 (new)", "/")]

    assert all(re.fullmatch(r"run-7-new-[0-9a-f]{6}", ending) for ending in endings[:2])
    assert re.fullmatch(r"run-[0-9a-f]{6}", endings[2])
    assert len(set(endings)) == 3


def test_what_is_sent_goes_to_the_server_that_the_sender_was_made_for():
    with temporary_settings(NOBODY_LISTENS):
        sender = ArtifactSender(uuid4(), Path("run"), close_within_s=60.0)

    sender.put("one", Artifact("markdown", "text", "description"))  # asked now, Prefect would start a server of its own
    sender.close()

    assert sender.failed  # nobody listens at the first address
