"""What a user sees of launches from another terminal: which there are, where they stand, what their machines write."""

import os
from types import SimpleNamespace

import pytest

from tasks.services.rental.fleet import label_of
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import Launches, machine_of
from tasks.services.rental.lock import controller_of, exclusive_controller
from tasks.services.rental.logs import MachineLogs
from tasks.services.rental.machine_log import fresh_lines, whole_lines
from tasks.services.rental.provider import Instance, UnknownOutcome
from tasks.services.rental.providers import registry
from tasks.services.run.lock import current_owner
from ups_models.errors import BadInput

OFFER = {"id": 100, "machine_id": 7, "disk_usd_per_gb_month": 0.15}


def journal_in(folder, run="p/r1", provider="local"):
    journal = Journal(folder / "rented.jsonl")
    journal.note("began", job={"run": run}, provider=provider)
    return journal


def rented(journal, generation, number, run="p/r1"):
    label = label_of(run, generation)
    journal.note("renting", generation, label=label, offer=OFFER, usd_per_hour=0.2, disk_gb=73)
    journal.note("rented", id=number)


def instance(number, label):
    return Instance(number, "7", label, "running", "", True, 0.2)


def newest(known):
    machine = known.launch.newest
    assert machine is not None
    return machine


class Logs:
    """A provider of nothing but logs: each look gets the next text, the last one for ever."""

    def __init__(self, **texts):
        self.texts = {number.removeprefix("i"): list(text) for number, text in texts.items()}

    def logs(self, instance_id):
        texts = self.texts[instance_id]
        text = texts.pop(0) if len(texts) > 1 else texts[0]
        if text is None:
            raise UnknownOutcome("no answer")
        return text


def logs_of(tmp_path, provider, text=None):
    launches = Launches(tmp_path)
    return MachineLogs(launches, launches.find(text), provider)


# ------------------------------------------------------------------------------------------------------ which there are


def test_the_launches_of_several_folders_are_known_with_machine_and_state(tmp_path):
    first = journal_in(tmp_path / "a")
    rented(first, 1, "1000")
    first.note("given back", id="1000")
    first.note("closed")
    rented(journal_in(tmp_path / "b" / "c", "p/r2"), 1, "2000", "r2")

    known = Launches(tmp_path).here()

    assert [(one.launch.run, one.state) for one in known] == [("p/r1", "closed"), ("p/r2", "interrupted")]
    assert [newest(one).id for one in known] == ["1000", "2000"]
    assert known[0].launch.provider == "local"


def test_a_machine_that_no_journal_knows_is_listed_by_its_label(tmp_path):
    rented(journal_in(tmp_path), 1, "1000")

    known = Launches(tmp_path).everywhere(
        [instance("1000", label_of("p/r1", 1)), instance("3000", label_of("r-g9", 2))]
    )

    assert [(one.run_id, one.state) for one in known] == [("r1", "interrupted"), ("r-g9", "elsewhere")]
    assert (newest(known[1]).id, newest(known[1]).generation) == ("3000", 2)


def test_several_launches_of_one_journal_are_told_apart(tmp_path):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1000")
    journal.note("given back", id="1000")
    journal.note("closed")
    journal.note("began", job={"run": "p/r2"}, provider="vast")
    rented(journal, 2, "2000", "p/r2")

    first, second = Launches(tmp_path).here()

    assert (first.launch.closed_at is None, second.launch.closed_at) == (False, None)
    assert (first.launch.provider, second.launch.provider) == ("local", "vast")
    assert [newest(one).generation for one in (first, second)] == [1, 2]


def test_a_machine_that_was_kept_is_known_until_its_owner_destroys_it(tmp_path):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1000")
    journal.note("kept")
    journal.note("closed")

    assert [one.id for one in Journal(journal.path).kept_machines()] == ["1000"]
    assert Launches(tmp_path).here()[0].state == "kept"

    journal.note("given back", 1, id="1000")

    assert Journal(journal.path).kept_machines() == []
    assert Launches(tmp_path).here()[0].state == "closed"


def test_who_works_on_a_journal_is_known_while_it_does(tmp_path):
    journal = journal_in(tmp_path)

    with exclusive_controller(journal.path):
        owner, [known] = controller_of(journal.path), Launches(tmp_path).here()

    assert owner is not None
    assert (owner.pid, owner.host) == (os.getpid(), str(current_owner()["host"]))
    assert (known.state, known.controller) == ("running", owner)
    assert controller_of(journal.path) is None


def test_a_folder_without_a_journal_has_no_controller_and_gets_no_file(tmp_path):
    assert controller_of(tmp_path / "rented.jsonl") is None
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- which one is meant


def test_without_a_name_the_open_launch_is_meant_and_else_the_newest(tmp_path):
    rented(journal_in(tmp_path / "a"), 1, "1000")
    second = journal_in(tmp_path / "b", "p/r2")
    second.note("closed")

    assert Launches(tmp_path).find(None).run_id == "r1"
    Journal(tmp_path / "a" / "rented.jsonl").note("closed")
    assert Launches(tmp_path).find(None).run_id == "r2"


@pytest.mark.parametrize("text", ["r1", "p/r1", "e/p/r1", "1001"])
def test_a_launch_is_named_by_its_run_or_by_a_machine(tmp_path, text):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1001")
    rented(journal, 2, "1002")

    known = Launches(tmp_path).find(text)

    assert known.run_id == "r1"
    machine = machine_of(known, text)
    assert machine is not None
    assert machine.id == ("1001" if text == "1001" else "1002")


@pytest.mark.parametrize(
    ("text", "named"), [("r9", "no launch and no instance of ours"), (None, "nothing was launched")]
)
def test_what_is_not_there_is_one_line(tmp_path, text, named):
    with pytest.raises(BadInput, match=named):
        Launches(tmp_path, "local").find(text)


# ------------------------------------------------------------------------------------------------------------- the logs


@pytest.mark.parametrize(
    ("shown", "now", "fresh"),
    [
        ([], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["first", "b"], ["rst", "b", "c"], ["c"]),
        (["a"], ["x", "y", "z"], ["x", "y", "z"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
    ],
)
def test_only_what_is_new_in_a_growing_text_is_shown(shown, now, fresh):
    assert fresh_lines(shown, now) == fresh


def test_a_line_that_is_still_being_written_is_not_shown():
    assert whole_lines("one\ntwo\nthr") == ["one", "two"]
    assert whole_lines("thr") == []


def test_the_log_of_a_machine_comes_from_the_provider_and_once_it_is_gone_from_the_file(tmp_path):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1000")

    logs = logs_of(tmp_path, Logs(i1000=["training\n"]))
    alive = logs.require_text(logs.known.launch.newest)
    (tmp_path / "machine-1.log").write_text("as it was\n", encoding="utf-8")
    journal.note("given back", id="1000")
    logs = logs_of(tmp_path, Logs())

    assert (alive, logs.require_text(logs.known.launch.newest)) == ("training\n", "as it was\n")


def test_why_there_is_no_log_is_said(tmp_path):
    journal = journal_in(tmp_path)
    none_yet = logs_of(tmp_path, Logs())
    with pytest.raises(BadInput, match="no machine was rented"):
        none_yet.require_text(None)

    rented(journal, 1, "1000")
    silent = logs_of(tmp_path, Logs(i1000=[""]))
    with pytest.raises(BadInput, match="nothing yet; -f waits"):
        silent.require_text(silent.known.launch.newest)

    journal.note("given back", id="1000")
    gone = logs_of(tmp_path, Logs())
    with pytest.raises(BadInput, match="gone and left no log"):
        gone.require_text(gone.known.launch.newest)


def test_following_shows_every_line_once_of_every_machine_until_the_launch_ends(tmp_path):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1000")
    provider = Logs(i1000=["a\nb", "a\nb\n", None, "a\nb\nc\n"], i1001=["d\n", "d\ne\n"])
    looks = [0]

    def pause(_seconds):
        looks[0] += 1
        if looks[0] == 4:
            (tmp_path / "machine-1.log").write_text("a\nb\nc\nlast\n", encoding="utf-8")
            journal.note("given back", id="1000")
            rented(journal, 2, "1001")
        if looks[0] == 6:
            journal.note("given back", id="1001")
            journal.note("closed")
            (tmp_path / "machine-2.log").write_text("d\ne\nend", encoding="utf-8")

    lines = list(logs_of(tmp_path, provider).follow(None, pause=pause))

    assert lines == [
        "--- machine 1 (instance 1000)", "a", "b", "c", "last", "--- machine 2 (instance 1001)", "d", "e", "end",
    ]  # fmt: skip


def test_following_ends_where_nothing_of_the_launch_is_left(tmp_path):
    journal = journal_in(tmp_path)
    rented(journal, 1, "1000")
    journal.note("given back", id="1000")  # by a signal: the launch stays open

    assert list(logs_of(tmp_path, Logs()).follow(None, pause=pytest.fail)) == ["--- machine 1 (instance 1000)"]


def test_a_damaged_journal_is_logged_and_costs_no_other(tmp_path, caplog):
    rented(journal_in(tmp_path / "a"), 1, "1000")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rented.jsonl").write_text('{"event":"renting","generation":1}\n', encoding="utf-8")

    assert [known.run_id for known in Launches(tmp_path).here()] == ["r1"]
    assert "b/rented.jsonl: entry 1 is none of a launch" in caplog.text
    with pytest.raises(BadInput, match="entry 1 is none of a launch"):
        Launches(tmp_path / "b").here()


def test_a_machine_that_was_kept_is_found_before_a_later_launch_that_left_none(tmp_path):
    kept = journal_in(tmp_path)
    rented(kept, 1, "1000")
    kept.note("kept")
    kept.note("closed")
    kept.note("began", job={"run": "p/r1"}, provider="local")
    kept.note("closed")

    assert [machine.id for machine in Launches(tmp_path).find("r1", alive=True).launch.machines] == ["1000"]
    assert Launches(tmp_path).find("r1").launch.machines == ()


class Rooms:
    """Providers by their names and folders, each with a machine."""

    def __init__(self, monkeypatch):
        self.asked: list[tuple[str, str]] = []
        monkeypatch.setattr(registry, "provider_for", self.provider)

    def provider(self, name, folder):
        self.asked.append((name, folder.name))
        number = str(len(self.asked))
        return SimpleNamespace(list_instances=lambda _label: [instance(number, label_of(f"p/{folder.name}", 1))])


def test_machines_are_asked_for_where_the_journals_say_so(tmp_path, monkeypatch):
    rooms = Rooms(monkeypatch)
    rented(journal_in(tmp_path / "a", "p/r1", "local"), 1, "1")
    ended = journal_in(tmp_path / "b", "p/r2", "vast")
    ended.note("closed")
    last = journal_in(tmp_path / "c", "p/r3", "vast")
    last.note("closed")

    found = Launches(tmp_path).machines()

    assert sorted(rooms.asked) == [("local", "a"), ("vast", "c")]
    assert len(found) == 2
    assert [one.id for _, one in Launches(tmp_path).machines(["1"])] == ["3"]
    assert rooms.asked[2:] == [("local", "a")]
    Launches(tmp_path / "nowhere").machines()
    assert rooms.asked[3:] == [("vast", "nowhere")]
