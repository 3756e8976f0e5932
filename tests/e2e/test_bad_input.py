"""Bad input, as the shell sees it: exit code 2 and one line; tests/unit/flows/test_bad_input.py has all the others."""

import os
import subprocess

import pytest


def test_a_config_with_an_unknown_key_is_one_line_on_stderr_and_exit_code_2(tmp_path, ups):
    (tmp_path / "config.yaml").write_text("latent: {dimm: 8}", encoding="utf-8")

    done = ups("train", "--config", "config.yaml", cwd=tmp_path)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ups: config.yaml: unknown key latent.dimm; did you mean latent.dim?\n"
    assert [path.name for path in tmp_path.rglob("*")] == ["config.yaml"]


@pytest.fixture
def sealed(tmp_path):
    """A directory that nobody may write to: a read-only file system for root, a mode for everyone else."""
    directory = tmp_path / "sealed"
    directory.mkdir(mode=0o500)
    if os.geteuid() != 0:
        yield directory
        return
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(directory)], check=False)
    if mounted.returncode:
        pytest.skip("root may write anywhere, and this machine does not let it mount a read-only file system")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path, sealed, ups):
    done = ups("train", "--config", "configs/smoke.yaml", "--run-dir", sealed.name, cwd=tmp_path)

    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert done.stderr.count("\n") == 1
