"""Whether another attempt makes sense: bounded a chain and a day, patient with machines, strict with errors."""

import time
from pathlib import Path

import pytest

from tasks.services.run.attempts import WAIT_S, ChainRun, Duplicate, GaveUp, backoff_before, entries, recorded
from tasks.services.run.paths import RunDir
from tasks.services.run.status import StatusStore

NOW = 1_000_000.0


def attempt(number=2, most=100, most_per_day=30):
    return ChainRun("c", "run", number, most, most_per_day)


def began(place, age_s=60.0, number=1, run="run"):
    return {"event": "began", "place": place, "time": NOW - age_s, "attempt": number, "run": run}


def failed(place, error):
    return {"event": "failed", "place": place, "error": error, "time": NOW, "attempt": 1, "run": "run"}


def test_the_first_attempt_and_one_after_progress_do_not_wait():
    assert backoff_before([], attempt(1), "", NOW) == 0
    assert backoff_before([began(""), began("operator:10")], attempt(3), "operator:20", NOW) == 0


def test_attempts_that_come_no_further_wait_longer_and_longer_and_then_end():
    stuck = [began("operator:10")] * len(WAIT_S)

    waits = [backoff_before(stuck[:n], attempt(n + 1), "operator:10", NOW) for n in range(len(WAIT_S))]

    assert waits == sorted(waits) == list(WAIT_S)
    with pytest.raises(GaveUp, match=r"5 attempts in a row came no further than operator:10"):
        backoff_before(stuck, attempt(), "operator:10", NOW)


def test_progress_resets_the_budget():
    before = [began("")] * 4 + [began("operator:10")] * 4

    assert backoff_before(before, attempt(), "operator:20", NOW) == 0


def test_the_same_error_twice_at_the_same_place_is_not_tried_again():
    before = [began(""), failed("operator:10", "E: x"), began("operator:10"), failed("operator:10", "E: x")]

    with pytest.raises(GaveUp, match="the same error twice at operator:10: E: x"):
        backoff_before(before, attempt(3), "operator:10", NOW)


@pytest.mark.parametrize("second", [("operator:20", "E: x"), ("operator:10", "E: y")])
def test_another_error_or_another_place_is_tried_again(second):
    backoff_before(
        [began(""), failed("operator:10", "E: x"), began("operator:10"), failed(*second)], attempt(3), second[0], NOW
    )


def test_an_attempt_is_made_once_however_often_a_crash_is_reported():
    with pytest.raises(Duplicate, match="attempt 2 of chain c was made already"):
        backoff_before([began(""), began("operator:10", number=2, run="other")], attempt(2), "operator:20", NOW)


def test_a_chain_gives_up_once_however_often_the_last_failure_is_reported(tmp_path, own):
    run = own(RunDir.of(tmp_path, tmp_path / "checkpoints"))

    def begin(name, number, most_per_day=1):
        with recorded(run, ChainRun("c", name, number, most=100, most_per_day=most_per_day)):
            pass

    begin("first", 1)

    with pytest.raises(GaveUp):
        begin("second", 2)
    with pytest.raises(Duplicate):
        begin("its double", 2)
    begin("a copy that may do more", 2, most_per_day=2)


def test_what_gave_up_yesterday_may_be_copied_today():
    gave_up = {**began("", number=31, run="other"), "event": "gave up", "most_per_day": 30}

    with pytest.raises(Duplicate):
        backoff_before([gave_up], attempt(31), "", NOW)
    assert backoff_before([gave_up], attempt(31), "", NOW + 86_400) == 0


def test_a_run_that_prefect_runs_again_is_the_same_attempt():
    assert backoff_before([began("operator:10", number=2)], attempt(2), "operator:20", NOW) == 0


def test_a_chain_has_an_end():
    with pytest.raises(GaveUp, match="100 attempts did not finish it"):
        attempt(101).check_limit()


def test_a_day_has_an_end_and_then_comes_another():
    many = [began(f"operator:{step}", age_s=3600) for step in range(30)]

    with pytest.raises(GaveUp, match="30 attempts in 24 hours"):
        backoff_before(many, attempt(31), "operator:30", NOW)
    assert backoff_before(many, attempt(31), "operator:30", NOW + 86_400) == 0


def test_what_happens_is_noted_with_its_place_and_error(tmp_path, own):
    run = own(RunDir.of(tmp_path, tmp_path / "checkpoints"))

    def fail_at(step):
        with recorded(run, attempt(1)):
            arch = {"dim": 1}
            StatusStore(run).start("operator", fresh=True, total_epochs=1, arch=arch, config_hash="", seed=0, inputs={})
            StatusStore(run).progress("operator", epoch=0, step=step, seconds=1)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail_at(7)

    noted = entries(run.reports / "attempts.jsonl", "c")
    assert [(entry["event"], entry["place"]) for entry in noted] == [("began", ""), ("failed", "operator:7")]
    assert noted[1]["error"] == "ValueError: boom"
    assert entries(run.reports / "attempts.jsonl", "another") == []


def test_attempts_on_other_machines_and_those_that_died_at_once_count_as_well(tmp_path, own):
    run = own(RunDir.of(tmp_path, Path("checkpoints")))
    elsewhere = [
        {"chain": "c", "attempt": n, "run": f"other{n}", "event": "began", "time": time.time()} for n in range(1, 6)
    ]

    with (
        pytest.raises(GaveUp, match="5 attempts in a row came no further than the start"),
        recorded(run, ChainRun("c", "run", 6, 100, 30, elsewhere=tuple(elsewhere))),
    ):
        pass

    with recorded(run, ChainRun("c", "run", 6, 100, 30, elsewhere=(elsewhere[0] | {"place": "operator:5"},))) as wait_s:
        assert wait_s == 0


def test_an_attempt_that_left_its_own_notes_here_is_not_counted_twice(tmp_path, own):
    run = own(RunDir.of(tmp_path, Path("checkpoints")))
    with recorded(run, ChainRun("c", "first", 1, 100, 30)):
        pass
    again = {"chain": "c", "attempt": 1, "run": "first", "event": "began", "time": time.time()}

    with recorded(run, ChainRun("c", "second", 2, 100, 30, elsewhere=(again,))) as wait_s:
        assert wait_s == WAIT_S[1]
