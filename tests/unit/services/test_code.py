"""The code that a rented machine gets: this checkout, or one commit of a repository, and never anything between."""

import subprocess

import pytest

from tasks.services.rental.code import code_to_send
from tasks.services.run.code_version import ROOT, code_version
from ups_models.errors import BadInput


@pytest.fixture
def repository(tmp_path):
    """A repository of two commits; yields its address and the first commit."""

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    folder = tmp_path / "repository"
    script = folder / "tasks" / "services" / "rental" / "onstart.sh"
    script.parent.mkdir(parents=True)
    git("init", "--quiet")
    for text in ("first", "second"):
        script.write_text(text, encoding="utf-8")
        git("add", ".")
        git("commit", "--quiet", "-m", text)
    return f"git:file://{folder}", git("rev-parse", "HEAD~1")


def test_without_a_wish_it_is_this_checkout():
    with code_to_send(None) as code:
        assert (code.root, code.version) == (ROOT, code_version())


def test_a_commit_is_sent_as_it_was(repository):
    address, commit = repository

    with code_to_send(f"{address}@{commit}") as code:
        sent = (code.root / "tasks" / "services" / "rental" / "onstart.sh").read_text("utf-8")

    assert (sent, code.version) == ("first", commit)
    assert not code.root.exists()


def test_a_commit_that_is_not_there_is_named(repository):
    with pytest.raises(BadInput, match="0123456789: cannot be fetched"), code_to_send(f"{repository[0]}@0123456789"):
        pytest.fail("there is no such commit")


def test_another_project_is_refused(repository, tmp_path):
    address, _ = repository
    (tmp_path / "repository" / "tasks" / "services" / "rental" / "onstart.sh").unlink()
    folder = tmp_path / "repository"
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", *who, "commit", "--quiet", "-am", "third"], cwd=folder, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)

    with pytest.raises(BadInput, match="holds no ups-pipeline"), code_to_send(f"{address}@{head.stdout.strip()}"):
        pytest.fail("it is another project")


def test_a_rented_machine_is_told_which_code_it_runs(monkeypatch):
    monkeypatch.setenv("UPS_CODE", "0123456789")

    assert code_version() == "0123456789"
