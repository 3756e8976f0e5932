"""Loggers beside training: they get everything, compose, and cannot stop it; who has the run can."""

import threading
from pathlib import Path
from typing import Any

import pytest

from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest
from tasks.services.checkpoints import uploads
from tasks.services.checkpoints.uploads import UploadFailed, Uploads
from tasks.services.run.history import History
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status
from tasks.services.tracking.protocols import FencedOut, MetricLogger, ReportPayload
from tasks.services.tracking.run_path import Received
from tasks.services.tracking.tracker import MAX_ERRORS, Tracker
from tasks.services.tracking.wandb_loggers import OfflineLogger, OnlineLogger
from ups_models.files import digest_of

WAIT_S = 20
ROW = {"step": 1, "loss": 0.5}


class Recording(MetricLogger):
    """Keeps what it is given; raises `error` instead, if it has one."""

    def __init__(self, calls=None, name="", error=None):
        self.calls, self.name, self.error, self.tries = calls if calls is not None else [], name, error, 0

    def note(self, *call):
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.calls.append((*([self.name] if self.name else []), *call))

    def begin(self, stage):
        self.note("begin", stage)

    def row(self, stage, row):
        self.note("row", stage, row["step"])

    def completed(self, stage):
        self.note("completed", stage)

    def report(self, gather):
        self.note("report", gather().html)

    def preempted(self):
        self.note("preempted")

    def close(self, *, failed):
        self.note("close", failed)


def everything(tracker):
    tracker.begin("operator")
    tracker.row("operator", ROW)
    tracker.saved()
    tracker.completed("operator")
    tracker.report(lambda: ReportPayload({}, {}, "page"))
    tracker.close(failed=False)


def test_every_logger_gets_all_that_training_reports_and_the_last_one_is_closed_first():
    calls: list[tuple[str, ...]] = []

    everything(Tracker({"a": Recording(calls, "a"), "b": Recording(calls, "b")}))

    assert [call[1:] for call in calls if call[0] == "a"] == [
        ("begin", "operator"),
        ("row", "operator", 1),
        ("completed", "operator"),
        ("report", "page"),
        ("close", False),
    ]
    assert [call[0] for call in calls[:8]] == ["a", "b"] * 4
    assert [call[0] for call in calls[8:]] == ["b", "a"]


def test_a_base_logger_takes_everything_and_shows_nothing():
    tracker = Tracker({"base": MetricLogger()})

    everything(tracker)
    tracker.preempted()

    assert not tracker.errors


def test_a_failing_logger_is_warned_about_a_few_times_and_then_left_alone(caplog):
    failing, other = Recording(error=ValueError("no quota\nsecond line")), Recording()
    tracker = Tracker({"failing": failing, "other": other})

    for step in range(1, 7):
        tracker.row("operator", {"step": step})

    assert failing.tries == MAX_ERRORS == len(caplog.messages)
    assert len(other.calls) == 6
    assert caplog.messages[0] == "failing: no quota; reports/metrics.jsonl has every row"
    assert "it gets nothing more of this run" in caplog.messages[-1]


def test_a_logger_that_cannot_be_made_is_left_out_with_one_warning(run, smoke, caplog):
    tracker, good = Tracker(), Recording()

    def bad(cfg, run):
        raise ValueError("no address")

    tracker.add_loggers({"bad": bad, "good": lambda cfg, run: good}, smoke, run)
    tracker.row("operator", ROW)

    assert [message.partition(";")[0] for message in caplog.messages] == ["bad: no address"]
    assert good.calls == [("row", "operator", 1)]


def installed_package(folder, name, code):
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[ups.loggers]\ntheirs = {name}:Logger\n", encoding="utf-8")


def test_a_logger_of_an_installed_package_is_found_by_its_entry_point(tmp_path, monkeypatch, run, smoke):
    code = "class Logger:\n    def __init__(self, cfg, run):\n        self.seed, self.root = cfg.seed, run.root\n"
    installed_package(tmp_path, "good_logger", code)
    monkeypatch.syspath_prepend(tmp_path)
    tracker = Tracker()

    tracker.add_loggers({}, smoke, run)

    assert vars(tracker.loggers["theirs"]) == {"seed": smoke.seed, "root": run.root}


def test_an_installed_package_that_cannot_be_imported_stops_nothing(tmp_path, monkeypatch, run, smoke, caplog):
    installed_package(tmp_path, "broken_logger", "import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    tracker = Tracker()

    tracker.add_loggers({}, smoke, run)
    everything(tracker)

    assert tracker.loggers == {}
    assert "theirs: No module named 'no_such_module'" in caplog.text


def test_loggers_that_fail_or_work_change_no_weights(tmp_path, finished_run, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    good, failing = Recording(), Recording(error=OSError("disk"))
    request = TrainRequest(config=Path("configs/smoke.yaml"), run_dir=tmp_path, stage="operator")

    run_job(parse(request), loggers={"failing": lambda cfg, run: failing, "good": lambda cfg, run: good})

    rows = [call for call in good.calls if call[0] == "row"]
    assert [row[2] for row in rows] == list(range(1, 31))
    assert [call[0] for call in good.calls if call[0] != "row"] == ["begin", "completed", "report", "close"]
    trained, straight = (digest_of(root / "checkpoints" / "operator.pt") for root in (tmp_path, finished_run))
    assert trained == straight


def test_a_logger_without_a_method_is_warned_about_and_stops_nothing(caplog):
    bare: Any = object()
    tracker = Tracker({"bare": bare})

    everything(tracker)
    tracker.preempted()

    assert "bare: 'object' object has no attribute 'begin'" in caplog.text


def test_figures_are_drawn_once_for_all_loggers_and_never_for_none():
    drawn = []

    def gather():
        drawn.append(1)
        return ReportPayload({}, {}, "page")

    Tracker().report(gather)
    assert drawn == []

    Tracker({"a": Recording(), "b": Recording()}).report(gather)
    assert drawn == [1]


def test_a_logger_that_hangs_takes_no_time_from_the_others_when_the_process_ends():
    hangs, ended, other = threading.Event(), threading.Event(), Recording()

    class Hanging(MetricLogger):
        def preempted(self):
            hangs.wait(WAIT_S)
            ended.set()

    Tracker({"hanging": Hanging(), "other": other}).preempted()

    assert other.calls == [("preempted",)]
    assert not ended.is_set()
    hangs.set()
    assert ended.wait(WAIT_S)


def test_a_logger_that_finds_the_run_taken_over_stops_training():
    with pytest.raises(FencedOut):
        Tracker({"a": Recording(error=FencedOut("a later machine has taken over"))}).row("operator", ROW)


# ------------------------------------------------------------------------------------------------------- uploads


def uploads_of(run, publish):
    return Uploads(run, publish, every_s=600.0, timeout_s=WAIT_S, retry_after_s=(0.01,))


def fail(folder, aliases):
    raise UploadFailed("checkpoints were not uploaded to W&B (403)")


def test_an_upload_that_fails_stops_nothing_on_a_machine_of_ones_own(run):
    tracker = Tracker({"a": Recording()}, uploads_of(run, fail))

    everything(tracker)

    assert "403" in str(read_status(run.status).upload)


def test_on_a_rented_machine_what_could_not_be_uploaded_fails_the_run(run, monkeypatch):
    monkeypatch.setenv("UPS_GENERATION", "2")
    logger = Recording()
    tracker = Tracker({"a": logger}, uploads_of(run, fail))

    with pytest.raises(UploadFailed, match=r"403.*this machine is rented"):
        tracker.close(failed=False)

    assert logger.calls == [("close", True)]


def test_on_a_rented_machine_an_upload_that_failed_gets_another_chance(run, monkeypatch):
    monkeypatch.setenv("UPS_GENERATION", "2")
    outcomes = [UploadFailed("403"), UploadFailed("403"), "v0"]

    def publish(folder, aliases):
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    tracker = Tracker({}, uploads_of(run, publish))
    tracker.completed("operator")

    tracker.close(failed=False)

    upload = read_status(run.status).upload
    assert upload is not None
    assert upload.version == "v0"


def test_a_machine_that_was_given_up_stops_at_the_next_save_and_does_not_try_again(run):
    tries = []

    def publish(folder, aliases):
        tries.append(aliases)
        raise FencedOut("a later machine has taken over; this one stops")

    uploads = uploads_of(run, publish)
    tracker = Tracker({"a": Recording()}, uploads)
    tracker.completed("operator")
    assert uploads.drain(WAIT_S)

    for call in (tracker.saved, lambda: tracker.completed("diff_residual")):
        with pytest.raises(FencedOut, match="a later machine has taken over"):
            call()

    tracker.preempted()
    tracker.close(failed=True)
    assert tries == [("operator",)]


def test_a_last_set_is_uploaded_when_the_process_ends_and_nothing_after_it(run, monkeypatch):
    monkeypatch.setattr(uploads, "GRACE_S", WAIT_S)
    taken = []

    def publish(folder, aliases):
        taken.append(aliases)
        return "v0"

    tracker = Tracker({}, uploads_of(run, publish))

    tracker.preempted()
    tracker.preempted()
    tracker.close(failed=True)

    assert taken == [()]


# ----------------------------------------------------------------------------------------------------------- W&B


class FakeSession:
    """An open run that keeps what it is given; `failures` rows are refused first."""

    def __init__(self, failures=0):
        self.rows, self.summary, self.ends, self.reports, self.failures = [], {}, [], [], failures

    def log(self, row):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        self.rows.append(row)

    def summarise(self, values):
        self.summary |= values

    def report(self, payload, folder):
        self.reports.append(payload.html)

    def preempt(self):
        self.ends.append("preempted")

    def finish(self, code):
        self.ends.append(code)


STARTS = {"operator": 0, "diff_residual": 30, "consistency_distill": 50, "steady_prior": 70}


def steps_to(last):
    return [(step, step) for step in range(1, last + 1)]


def started(run, stage="operator"):
    return read_status(run.status).stage(stage).started_at


def test_wandb_gets_the_rows_that_it_does_not_have_each_once(run):
    session: Any = FakeSession()
    history = History(run).read()["operator"]
    sent = Received({"operator/step": 11, "operator/started_at": started(run)}, {"operator": steps_to(10)})
    logger = OnlineLogger(run, session, sent, STARTS)

    logger.begin("operator")
    logger.row("operator", history[-1])

    assert [row["operator/step"] for row in session.rows] == list(range(11, 31))
    assert [row["global_step"] for row in session.rows] == list(range(11, 31))
    assert session.summary == {}


def test_every_stage_is_caught_up_in_order_each_row_at_the_step_it_had(run):
    session: Any = FakeSession()
    sent = Received({"operator/started_at": started(run)}, {"operator": steps_to(29)})

    OnlineLogger(run, session, sent, STARTS).catch_up()

    rows = [(stage, row["step"]) for stage, rows in History(run).read().items() for row in rows][29:]
    found = [(name.partition("/")[0], row[name]) for row in session.rows for name in row if name.endswith("/step")]
    assert found == rows
    assert [row["global_step"] for row in session.rows] == [STARTS[stage] + step for stage, step in rows]


def test_of_a_stage_that_was_started_anew_only_the_rows_since_then_count(run):
    session: Any = FakeSession()
    summary = {"operator/started_at": started(run), "operator/base": 30, "operator/rows_before": 30}
    sent = Received(summary, {"operator": [*steps_to(30), (1, 31), (2, 32)]})

    OnlineLogger(run, session, sent, STARTS).begin("operator")

    assert [row["operator/step"] for row in session.rows] == list(range(3, 31))
    assert [row["global_step"] for row in session.rows] == list(range(33, 61))


def test_a_stage_that_was_started_anew_is_sent_whole_and_the_axis_continues(run):
    session: Any = FakeSession()
    sent = Received({"operator/started_at": "earlier"}, {"operator": steps_to(30)})
    logger = OnlineLogger(run, session, sent, STARTS)

    logger.begin("operator")

    assert [row["operator/step"] for row in session.rows] == list(range(1, 31))
    assert [row["global_step"] for row in session.rows] == list(range(31, 61))
    assert session.summary == {
        "operator/started_at": started(run),
        "operator/base": 30,
        "operator/rows_before": 30,
    }


def test_a_row_that_could_not_be_sent_comes_before_the_next_one(run, caplog):
    session: Any = FakeSession(failures=1)
    tracker = Tracker({"W&B": OnlineLogger(run, session, Received(), STARTS)})

    for step in (1, 2):
        tracker.row("operator", {"step": step, "loss": 0.1})

    assert [row["operator/step"] for row in session.rows] == [1, 2]
    assert "W&B: gone; reports/metrics.jsonl has every row" in caplog.text


@pytest.mark.parametrize(("failed", "code"), [(False, 0), (True, 1)])
def test_the_end_of_a_run_is_its_exit_code_in_wandb(run, failed, code):
    session: Any = FakeSession()
    logger = OnlineLogger(run, session, Received(), STARTS)

    logger.report(lambda: ReportPayload({}, {}, "page"))
    logger.close(failed=failed)
    logger.preempted()

    assert session.reports == ["page"]
    assert session.ends == [code]


def test_a_run_that_was_preempted_is_not_also_finished(run):
    session: Any = FakeSession()
    logger = OnlineLogger(run, session, Received(), STARTS)

    logger.preempted()
    logger.close(failed=True)

    assert session.ends == ["preempted"]


def test_an_offline_run_says_at_its_end_how_to_upload_it(tmp_path, caplog):
    tracker = Tracker({"W&B": OfflineLogger(RunDir.of(tmp_path, tmp_path / "checkpoints"))})

    everything(tracker)

    assert f"`ups sync {tmp_path} --config CONFIG`" in caplog.text
