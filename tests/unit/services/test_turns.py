"""Taking turns: who comes later waits, and a child that inherited the turn keeps it for its parent."""

import fcntl
import os
import threading

from tasks.services.run.turns import turn


def is_free(path):
    with path.with_name(f".{path.name}.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def test_the_second_waits_for_the_first_and_says_so(tmp_path, caplog):
    order = []

    def second():
        with turn(tmp_path / "trial", "trial"):
            order.append("second")

    caplog.set_level("INFO")
    waiting = threading.Thread(target=second)
    with turn(tmp_path / "trial", "trial"):
        waiting.start()
        while "is waited for" not in caplog.text:
            waiting.join(0.01)
        order.append("first")
    waiting.join(10)

    assert order == ["first", "second"]
    assert caplog.text.count("trial: another process works on it, and is waited for") == 1


def test_whoever_inherits_the_turn_keeps_it_until_it_ends(tmp_path):
    with turn(tmp_path / "trial", "trial") as lock:
        inherited = os.dup(lock)  # what a child gets

    assert not is_free(tmp_path / "trial")
    os.close(inherited)
    assert is_free(tmp_path / "trial")
