"""Who owns a run: one process, which is named, and which records nothing once the run is not its own any more."""

import errno
import fcntl
import json
import os
import platform
import threading
import time

import pytest

from tasks.services.run import lock
from tasks.services.run.lock import is_owned, owned, owner_message, wait_until_free
from tasks.services.run.paths import RunDir
from ups_models.errors import BadInput, RunLost

HOST = platform.node()
WITHIN_S = 60
NO_SUCH_PID = 2**30


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path / "run", tmp_path / "run" / "checkpoints")


@pytest.fixture
def other_owner(run):
    """Hold the lock of the run as another process would; yields what lets it go."""
    run.checkpoints.mkdir(parents=True)
    with run.lock.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def says(run, **owner):
    run.lock.write_text(json.dumps({"pid": os.getpid(), "host": HOST, "started_at": "noon", **owner}))


def test_a_run_is_owned_while_the_block_lasts(run):
    before = is_owned(run)
    with owned(run) as own:
        own.check()
        between = is_owned(run)

    assert (before, between, is_owned(run)) == (False, True, False)


def test_asking_creates_nothing(run):
    assert not is_owned(run)
    assert not run.root.exists()


def test_the_lock_names_its_owner(run):
    with owned(run):
        owner = json.loads(run.lock.read_text("utf-8"))

    assert owner["pid"] == os.getpid()
    assert owner["host"] == HOST


@pytest.mark.usefixtures("other_owner")
def test_another_process_is_refused_and_told_who_works_on_the_run(run):
    says(run)

    with (
        pytest.raises(BadInput, match=rf"process {os.getpid()} on .*, started noon, is working on this run"),
        owned(run),
    ):
        pytest.fail("two owners")


@pytest.mark.usefixtures("other_owner")
def test_an_owner_that_has_ended_and_left_a_process_behind_is_named_as_such(run):
    says(run, pid=NO_SUCH_PID)

    assert f"process {NO_SUCH_PID} on" in owner_message(run)
    assert "has ended, but a process that it left behind is working on this run" in owner_message(run)


@pytest.mark.usefixtures("other_owner")
def test_an_owner_on_another_machine_is_not_taken_for_dead(run):
    says(run, pid=NO_SUCH_PID, host="elsewhere")

    assert "has ended" not in owner_message(run)


@pytest.mark.usefixtures("other_owner")
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"pid": "many", "host": 1, "started_at": 2}'])
def test_an_owner_that_cannot_be_read_is_another_process(run, text):
    run.lock.write_text(text.replace("1", json.dumps(HOST)), encoding="utf-8")

    assert "another process is working on this run" in owner_message(run)


def test_a_run_that_cannot_be_created_is_refused(run):
    run.root.parent.joinpath("run").write_text("a file", encoding="utf-8")

    with pytest.raises(BadInput, match="cannot be created or written"), owned(run):
        pytest.fail("there is no such folder")


def test_what_killed_processes_left_behind_is_removed(run, caplog):
    caplog.set_level("INFO")
    left = [run.staging / "set" / "operator.pt", run.checkpoints / ".operator.pt.x1.tmp~"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")

    with owned(run):
        assert not any(path.exists() for path in left)

    assert "left behind by a process that was killed" in caplog.text


def test_nothing_is_recorded_once_the_block_has_ended(run):
    with owned(run) as own:
        pass

    with pytest.raises(RunLost):
        own.check()


@pytest.mark.parametrize("made_again", [False, True])
def test_a_deleted_lock_does_not_let_two_processes_record(run, tmp_path, made_again):
    with owned(run) as own:
        own.check()
        run.lock.rename(tmp_path / "taken away")
        if made_again:
            run.lock.touch()
        with pytest.raises(RunLost, match="removed or replaced"):
            own.check()


def test_a_run_that_is_free_is_not_waited_for(run):
    wait_until_free(run)

    assert not run.root.exists()


def test_the_end_of_a_living_owner_is_waited_for(run, other_owner, monkeypatch, caplog):
    says(run)
    asked, ended = threading.Event(), []
    monkeypatch.setattr(lock, "OWNER_PAUSE_S", 0.001)

    def just_now(run):
        asked.set()
        return time.time()

    monkeypatch.setattr(lock, "_last_written", just_now)

    def wait():
        wait_until_free(run)
        ended.append(is_owned(run))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asked.wait(WITHIN_S)
    still_waiting = waiting.is_alive()
    other_owner()
    waiting.join(WITHIN_S)

    assert still_waiting
    assert ended == [False]
    assert "is still working on this run: waiting for its end" in caplog.text


def test_of_two_that_wait_for_an_owner_one_after_the_other_has_the_run(run, other_owner, monkeypatch, caplog):
    says(run)
    monkeypatch.setattr(lock, "OWNER_PAUSE_S", 0.001)
    inside, most = [], []

    def work(name):
        with owned(run, patience_s=WITHIN_S):
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.05)
            inside.remove(name)

    waiting = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in waiting:
        thread.start()
    until = time.monotonic() + WITHIN_S
    while caplog.text.count("is still working on this run: waiting for its end") < 2 and time.monotonic() < until:
        time.sleep(0.01)
    other_owner()
    for thread in waiting:
        thread.join(WITHIN_S)

    assert most == [1, 1]


@pytest.mark.usefixtures("other_owner")
def test_an_owner_that_stays_silent_is_named_to_whoever_waited(run):
    with pytest.raises(BadInput, match="is working on this run"), owned(run, patience_s=0.01):
        pass


@pytest.mark.usefixtures("other_owner")
def test_an_owner_that_has_written_nothing_for_so_long_is_not_waited_for(run):
    wait_until_free(run, patience_s=0)

    assert is_owned(run)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_a_lock_that_is_another_file_too_is_refused_and_that_file_is_left_alone(run, tmp_path, link):
    target = tmp_path / "precious"
    target.write_text("precious", encoding="utf-8")
    run.checkpoints.mkdir(parents=True)
    if link == "hard":
        os.link(target, run.lock)
    else:
        run.lock.symlink_to(target)

    with pytest.raises(BadInput, match=r"\.owner: cannot be the lock of a run: .*; delete it"), owned(run):
        pass

    assert target.read_text("utf-8") == "precious"


def test_a_named_pipe_as_lock_is_refused_at_once(run):
    run.checkpoints.mkdir(parents=True)
    os.mkfifo(run.lock)

    with pytest.raises(BadInput, match=r"\.owner: .*is a named pipe"), owned(run):
        pass
    with pytest.raises(BadInput, match="is a named pipe"):
        is_owned(run)


@pytest.mark.parametrize("name", ["stage_status.json", "resume/operator.pt"])
def test_a_link_in_the_place_of_the_status_or_a_saved_state_is_refused(run, tmp_path, name):
    (tmp_path / "other").write_text("{}", encoding="utf-8")
    path = run.checkpoint(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(tmp_path / "other")

    with pytest.raises(BadInput, match="is a symbolic link; put the file itself in its place"), owned(run):
        pass


def test_a_folder_that_is_a_link_is_followed_and_named(run, tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "disk").mkdir()
    run.root.mkdir()
    run.checkpoints.symlink_to(tmp_path / "disk")

    with owned(run):
        pass

    assert (tmp_path / "disk" / ".owner").is_file()
    assert f"{run.checkpoints} is a link to {tmp_path / 'disk'}" in caplog.messages


def test_a_folder_of_checkpoints_that_others_can_write_is_told_once(run, caplog):
    run.checkpoints.mkdir(parents=True)
    run.checkpoints.chmod(0o777)

    for _ in range(2):
        with owned(run):
            pass

    told = [record.getMessage() for record in caplog.records if "can replace checkpoints" in record.getMessage()]
    assert len(told) == 1
    assert f"chmod o-w {run.checkpoints}" in told[0]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_by_name(run, monkeypatch, number):
    """As NFS answers where no lock service runs; there is none here to try."""
    run.checkpoints.mkdir(parents=True)
    run.lock.touch()

    def refuse(_handle, _operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(BadInput, match=r"\.owner: this file system has no locks .*NFSv4"), owned(run):
        pass
    with pytest.raises(BadInput, match="has no locks"):
        is_owned(run)


def test_half_a_config_is_removed_and_a_file_of_somebody_else_beside_it_is_not(run):
    run.checkpoints.mkdir(parents=True)
    ours, theirs = run.root / ".config.yaml.x1.tmp~", run.root / ".notes.x1.tmp~"
    for path in (ours, theirs):
        path.touch()

    with owned(run):
        assert (ours.exists(), theirs.exists()) == (False, True)
