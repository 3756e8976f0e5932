"""`ups launches`, `cost`, `logs`, `stop`, `ssh` and `pull` in process: what they print, and what they refuse."""

import pytest

from tasks.services.rental.fleet import label_of
from tasks.services.rental.journal import Journal

HERE = ("--provider", "local")


@pytest.fixture
def journal(tmp_path):
    """A launch that came to its end after one machine."""
    journal = Journal(tmp_path / "rented.jsonl")
    offer = {"machine_id": 7, "gpu": "RTX 4090", "disk_usd_per_gb_month": 0.1}
    journal.note("began", job={"run": "me/p/r1"}, provider="local")
    journal.note("renting", 1, label=label_of("p/r1", 1), offer=offer, usd_per_hour=0.2, disk_gb=40)
    journal.note("rented", id=1)
    journal.note("given back", id=1)
    journal.note("closed")
    return journal


def refused(done):
    """The one line of a command that must exit with 2."""
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    return done.stderr


@pytest.mark.usefixtures("journal")
def test_what_was_launched_is_a_table(ups, tmp_path):
    done = ups("launches", *HERE, cwd=tmp_path)

    head, row = done.stdout.splitlines()
    assert head.split() == ["run", "state", "stage", "step", "machine", "USD", "since"]
    assert row.split()[:6] == ["me/p/r1", "closed", "-", "-", "-", "0.00"]


def test_a_provider_that_cannot_be_asked_is_named_below_what_is_known(ups, tmp_path, monkeypatch, journal):
    monkeypatch.delenv("VAST_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    done = ups("launches", cwd=tmp_path)

    assert done.returncode == 0
    assert "me/p/r1" in done.stdout
    assert "vast could not be asked" in done.stdout


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(("by", "name"), [("launch", "me/p/r1"), ("machine", "1 (RTX 4090)"), ("day", "20")])
def test_what_it_cost_is_a_table_with_a_sum(ups, tmp_path, by, name):
    done = ups("cost", "--by", by, *HERE, cwd=tmp_path)

    lines = done.stdout.splitlines()
    assert lines[0].split() == [by, "hours", "GPU", "disk", "traffic", "USD"]
    assert lines[1].startswith(name)
    assert lines[2].startswith("in all")
    assert lines[-1] == "Credit: not told by local"


def test_the_log_that_a_machine_left_is_printed(ups, tmp_path, journal):
    missing = ups("logs", *HERE, cwd=tmp_path)
    journal.path.with_name("machine-1.log").write_text("one\ntwo\n", encoding="utf-8")

    done = ups("logs", *HERE, cwd=tmp_path)

    assert "is gone and left no log" in refused(missing)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n")


@pytest.mark.usefixtures("journal")
def test_following_what_has_ended_prints_its_log_and_ends(ups, tmp_path):
    done = ups("logs", "-f", *HERE, cwd=tmp_path)

    assert (done.returncode, done.stdout) == (0, "--- machine 1 (instance 1)\n")


@pytest.mark.usefixtures("journal")
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("stop",), "its launch has ended"),
        (("ssh",), "no machine of it is left to log in to"),
        (("ssh", "7"), "no launch and no instance of ours"),
        (("logs", "r2"), "no launch and no instance of ours"),
        (("stop", "r2"), "no launch and no instance of ours"),
    ],
)
def test_what_is_not_there_is_one_line(ups, tmp_path, words, named):
    assert named in refused(ups(*words, *HERE, cwd=tmp_path))


def test_an_interrupted_launch_is_stopped(ups, tmp_path):
    journal = Journal(tmp_path / "rented.jsonl")
    journal.note("began", job={"run": "me/p/r1"}, provider="local")

    done = ups("stop", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:3] == ["Stopped: run me/p/r1", "Destroyed: none", "Spent: 0.00 USD"]
    assert Journal(journal.path).open_job is None


@pytest.mark.parametrize(("run", "named"), [("a/b/c/d", "is not a W&B run"), ("r1", "ups pull needs W&B online")])
def test_a_run_that_cannot_be_pulled_is_one_line(ups, tmp_path, run, named):
    assert named in refused(ups("pull", run, cwd=tmp_path))
