"""What the harness of hostile files counts: it must see a traceback, a hang and a process that dies."""

import os
import signal
import time

from harness.trust import cases
from harness.trust.cases import Case, count_of, outcome_of
from ups_models.errors import UPSError


def test_a_traceback_a_hang_and_a_death_are_counted(tmp_path, monkeypatch):
    readers = {
        "fails": lambda path: {}[path],
        "dies": lambda path: os.kill(os.getpid(), signal.SIGKILL),
        "reads": lambda path: None,
    }

    count = count_of(Case(name, tmp_path, read) for name, read in readers.items())
    monkeypatch.setattr(cases, "LIMIT_S", 0.5)
    hanging = count_of([Case("hangs", tmp_path, lambda path: time.sleep(60))])

    assert (hanging.files, hanging.hangs, hanging.tracebacks) == (1, ["hangs"], [])
    assert (count.files, count.hangs, len(count.tracebacks)) == (3, [], 2)
    assert count.tracebacks[0].startswith("fails: KeyError")
    assert count.tracebacks[1].startswith("dies: ")


def test_a_message_of_two_lines_or_with_an_escape_is_a_fault(tmp_path):
    def refuse(_path):
        raise UPSError("a\x1b[31m\nb")

    assert "not one plain line" in outcome_of(Case("x", tmp_path, refuse))
