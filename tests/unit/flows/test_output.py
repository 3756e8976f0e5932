"""What the command line prints: in any encoding, to anybody who stops reading, without control characters."""

import io
import json
import logging
import os
import sys

import pytest

from flows.cli.views.console import LogFormatter, complain, echo, flush, write_whatever_the_encoding


@pytest.fixture
def stdout(monkeypatch):
    """Put a stream in the place of stdout."""

    def put(stream):
        monkeypatch.setattr(sys, "stdout", stream)
        return stream

    return put


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_character_that_the_terminal_cannot_show_is_no_error(stdout, encoding):
    buffer = io.BytesIO()
    stdout(io.TextIOWrapper(buffer, encoding=encoding))

    write_whatever_the_encoding()
    echo("done ✅")

    assert buffer.getvalue() == b"done \\u2705\n"


def test_a_reader_that_is_gone_is_no_error(stdout):
    reading, writing = os.pipe()
    os.close(reading)
    stream = stdout(os.fdopen(writing, "w", encoding="utf-8"))

    echo("x" * 100_000)
    echo("and more")
    flush()
    stream.close()


def test_every_command_ends_well_when_nobody_reads(ups, here, stdout):
    reading, writing = os.pipe()
    os.close(reading)
    stream = stdout(os.fdopen(writing, "w", encoding="utf-8"))

    assert ups("status", "--plan", "--config", "configs/smoke.yaml").returncode == 0

    stream.close()


def test_what_a_file_says_cannot_steer_the_terminal(ups, here):
    (here / "checkpoints").mkdir()
    record = {"status": "failed", "error_message": "a\x1b[2Jb\nTraining Complete: yes" + "x" * 10_000}
    content = {"schema_version": 1, "stages": {"operator": record}}
    (here / "checkpoints" / "stage_status.json").write_text(json.dumps(content), encoding="utf-8")

    done = ups("status")

    assert done.returncode == 0
    assert "last error: ab Training Complete: yesxxx" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 500


def test_an_error_is_one_plain_line_whatever_was_given(ups, here):
    done = ups("train", "--config", "no\x1b[31m\nsuch.yaml")

    assert done.returncode == 2
    assert done.stderr == ("ups: no such.yaml: no such config file; the shipped ones are in configs/\n")


@pytest.mark.parametrize("value", ["x" * 100_000, "[" * 50_000, "!!int abc", "&a [*a]", "a.b." * 1000 + "c=1"])
def test_an_override_of_any_kind_is_refused_in_one_short_line(ups, here, value):
    done = ups("train", "--config", "configs/smoke.yaml", "--set", f"latent.dim={value}" if "=" not in value else value)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert len(done.stderr) < 700


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/stage_status.json", "checkpoints/.owner"])
def test_what_is_no_file_is_refused_by_name_and_not_waited_for(ups, here, name, kind):
    path = here / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")

    config = "config.yaml" if name == "config.yaml" else "configs/smoke.yaml"
    done = ups("train", "--config", config, "--auto-resume")

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr


def test_a_device_is_not_replaced_by_a_data_file(ups, here):
    os.mkfifo(here / "out")

    done = ups("data", "generate", "advection1d", "--out", "out")

    assert (done.returncode, "would be replaced" in done.stderr) == (2, True)


def test_a_log_line_is_one_plain_line_and_a_traceback_keeps_its_own():
    try:
        raise ValueError("x")
    except ValueError:
        record = logging.LogRecord("n", logging.INFO, "p", 1, "a\x1b[31m\nb %s", ("https://u:p@h",), sys.exc_info())

    first, *rest = LogFormatter().format(record).splitlines()

    assert first.endswith("INFO    a b https://h")
    assert rest[0].startswith("Traceback")


def test_a_complaint_to_nobody_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)

        complain("nobody reads this")
