"""The journal of rented machines: what a controller knows after it was killed at any byte."""

import json

import pytest

from tasks.services.rental.journal import Journal
from tasks.services.rental.lock import require_writable_journal
from ups_models.errors import BadInput

OFFER = {"id": 100, "machine_id": 7}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "rented.jsonl"


def renting(journal, generation):
    """Order a machine, in a launch that has begun."""
    if journal.open_job is None:
        journal.note("began", job={"run": "p/r1"})
    journal.note("renting", generation, label=f"ups-r1-g{generation}", offer=OFFER, usd_per_hour=0.2)


def test_what_was_noted_is_known_after_a_restart(path):
    journal = Journal(path)
    journal.note("began", job={"run": "p/r1"})
    renting(journal, 1)
    journal.note("rented", id="1000")
    journal.note("excluded")
    journal.note("given back", id="1000")
    renting(journal, 2)

    again = Journal(path)

    assert (again.generation, again.open_job, again.excluded) == (2, {"run": "p/r1"}, {"7"})
    assert {number: (one.id, one.label) for number, one in again.machines.items()} == {
        1: ("1000", "ups-r1-g1"),
        2: (None, "ups-r1-g2"),
    }
    assert (again.rented(), [one.generation for one in again.not_destroyed()]) == (1, [2])


def test_the_event_after_half_a_line_is_not_lost(path):
    renting(Journal(path), 1)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"event": "rented", "gener')  # killed while it wrote

    Journal(path).note("rented", id="1000")

    again = Journal(path)
    assert (again.machines[1].id, again.rented()) == ("1000", 1)


def test_a_journal_with_nothing_but_half_a_line_is_a_new_one(path):
    path.parent.mkdir()
    path.write_text('{"event": "ren', encoding="utf-8")

    assert (Journal(path).machines, Journal(path).generation) == ({}, 0)


def test_a_journal_of_an_earlier_version_is_read(path):
    path.parent.mkdir()
    events = [
        {"event": "began", "generation": 0, "time": 1.0, "at": "2025-10-28T12:00:00Z", "job": {"run": "p/r1"}},
        {"event": "renting", "generation": 1, "time": 2.0, "at": "2025-10-28T12:00:00Z", "label": "l",
         "offer": {**OFFER, "gpu": "RTX 4090"}, "usd_per_hour": 0.2},
        {"event": "rented", "generation": 1, "time": 3.0, "at": "2025-10-28T12:00:00Z", "id": "1000"},
        {"event": "given back", "generation": 1, "time": 3602.0, "at": "2025-10-28T13:00:00Z", "id": "1000"},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")

    journal = Journal(path)

    assert (journal.started_at, journal.not_destroyed()) == (1.0, [])
    assert journal.spent_usd() == pytest.approx(0.2)


def test_when_every_machine_on_offer_has_failed_all_may_be_tried_again(path):
    journal = Journal(path)
    renting(journal, 1)
    journal.note("excluded")

    journal.note("market exhausted")

    assert Journal(path).excluded == set()


def test_where_no_journal_can_be_kept_nothing_is_rented(path):
    require_writable_journal(path)
    path.parent.write_text("a file where the run directory should be", encoding="utf-8")

    with pytest.raises(BadInput, match=r"run: cannot be written, and nothing is rented without a journal"):
        require_writable_journal(path)


def test_a_machine_whose_launch_cannot_be_read_is_refused_and_not_forgotten(path):
    renting(Journal(path), 1)
    began, *rest = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([began.replace("{", "(", 1), *rest]) + "\n", encoding="utf-8")

    with pytest.raises(BadInput, match=r"is of no launch, so a line before it is lost; it may still cost"):
        Journal(path)


def test_the_hours_of_a_launch_do_not_run_while_it_is_stopped_and_has_no_machine(path, monkeypatch):
    now = [1_800_000_000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    journal = Journal(path)
    journal.note("claims", controller="a")
    renting(journal, 1)
    now[0] += 3600
    journal.note("given back", 1)
    now[0] += 8 * 3600

    again = Journal(path)
    again.note("claims", controller="b")
    again.note("answers", chain="c")
    again.note("began", job={"run": "p/r1"})

    assert again.hours() == pytest.approx(1.0)
