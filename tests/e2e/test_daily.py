"""What a user of rented machines types all day, as it is typed, against Vast.ai's emulator and W&B on loopback."""

import pytest

from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status

SMOKE = ("--config", "configs/smoke.yaml")


def status_in(root):
    return read_status(RunDir.of(root, root / "checkpoints").status)


# ------------------------------------------------------------------------------------------------------------- ups pull


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tracked_pipeline):
    """A finished run that W&B has."""
    root = tmp_path_factory.mktemp("trained")
    done = tracked_pipeline(*SMOKE, cwd=root)
    assert done.returncode == 0, done.stderr
    return root


def test_what_is_pulled_is_accepted_by_status_and_report_and_has_nothing_left_to_do(trained, tracked_ups, tmp_path):
    record = status_in(trained).wandb

    done = tracked_ups("pull", record.id, "--run-dir", "here", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert f"Checkpoints: ckpt-{record.id}:v" in done.stdout
    assert f"Report: report-{record.id}:v" in done.stdout
    assert status_in(tmp_path / "here").evaluations == status_in(trained).evaluations
    shown = tracked_ups("status", "here", "--plan", cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "Training Complete:        ✅ Yes" in shown.stdout
    assert record.id in shown.stdout
    reported = tracked_ups("report", "--run-dir", "here", cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr


def test_a_run_that_does_not_exist_is_one_line(tracked_ups, tmp_path):
    done = tracked_ups("pull", "no-such-run", cwd=tmp_path)

    assert done.returncode == 2
    assert "WandB run not found" in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_a_key_nothing_is_asked(ups, tmp_path):
    done = ups("pull", "some-run", cwd=tmp_path)

    assert done.returncode == 2
    assert "ups pull needs W&B online" in done.stderr
