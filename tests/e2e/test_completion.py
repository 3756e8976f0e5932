"""What a shell is told of a command line that is not finished: argcomplete answers on descriptors of its own."""

import pytest

from flows import ROOT
from harness.commands import command


@pytest.mark.parametrize(
    ("line", "offered"),
    [("ups sta", ["status"]), ("ups export --tr", ["--trust-code"]), ("ups data generate --t-", ["--t-end"])],
)
def test_a_shell_is_told_how_a_command_line_may_go_on(line, offered, tmp_path):
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    ups = command("-m", "flows.cli", PYTHONPATH=str(ROOT), _ARGCOMPLETE_STDOUT_FILENAME=str(tmp_path / "out"), **asked)

    done = ups(cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert [word.strip() for word in (tmp_path / "out").read_text().split("\n") if word.strip()] == offered
