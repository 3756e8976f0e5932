"""The flow as Prefect sees it: names, states, and a server that leaves no trace."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from unittest.mock import patch

import pytest

from flows import ROOT
from flows.prefect.blank import copy_blank
from flows.prefect.server import QUIET
from harness.bench import probe
from harness.chaos.prefect_stack import FINAL
from harness.commands import UNTRACKED


def task_runs(server, count):
    """The newest flow run, and name, state and message of its tasks: they arrive as events, a little later than it."""
    flow_run = api(server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    query, deadline = {"flow_runs": {"id": {"any_": [flow_run["id"]]}}}, time.monotonic() + 60
    while True:
        runs = api(server, "/task_runs/filter", query)
        if len([run for run in runs if run["state_type"] in FINAL]) == count or time.monotonic() > deadline:
            return flow_run, {run["name"]: (run["state"]["name"], run["state"]["message"]) for run in runs}
        time.sleep(0.2)


def api(server, path, body):
    request = urllib.request.Request(
        server["PREFECT_API_URL"] + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def test_tasks_are_named_after_stages_and_end_as_skipped_with_the_reason(
    tmp_path, finished_run, pipeline, prefect_server
):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    before = content(tmp_path)

    done = pipeline("--config", "configs/smoke.yaml", "--auto-resume", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr.count(": skip: completed at") == 6
    assert "Training Complete:        ✅ Yes" in done.stdout
    assert "Report: reports/report.html" in done.stdout
    assert content(tmp_path) == before
    flow_run, tasks = task_runs(prefect_server, 6)
    assert flow_run["name"].startswith("smoke · attempt 1 · ")
    assert flow_run["state"]["type"] == "COMPLETED"
    assert set(tasks) == {
        *("operator", "diff_residual", "consistency_distill", "steady_prior", "small_eval", "full_eval")
    }
    assert {state for state, _ in tasks.values()} == {"Skipped"}
    assert tasks["operator"][1].startswith("operator: completed at")


def content(run_dir):
    files = [*run_dir.glob("checkpoints/*.pt"), run_dir / "reports" / "report.html"]
    return {path.name: path.read_bytes() for path in files}


def test_a_stage_that_fails_fails_the_flow(tmp_path, pipeline, prefect_server):
    nonsense = ["--set", "stages.operator.lr=1", "--set", "stages.operator.grad_clip=1e30"]

    done = pipeline("--config", "configs/smoke.yaml", *nonsense, cwd=tmp_path)

    flow_run, tasks = task_runs(prefect_server, 1)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ups: operator: ")
    assert flow_run["state"]["type"] == "FAILED"
    assert tasks["operator"][0] == "Failed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_stopped_by_a_signal_has_crashed_and_exits_75(tmp_path, stopped_pipeline, prefect_server, number):
    slow = ["--set", "stages.operator.steps_per_epoch=10000", "--stage", "operator"]

    code, stderr = stopped_pipeline("--config", "configs/smoke.yaml", *slow, cwd=tmp_path, number=number)

    flow_run, tasks = task_runs(prefect_server, 1)
    assert code == 75, stderr
    assert stderr.splitlines()[-1] == "ups: stopped by a signal; run the same command with --auto-resume to resume"
    assert flow_run["state"]["type"] == "CRASHED"
    assert tasks["operator"][0] == "Crashed"


def test_a_run_without_a_worker_that_is_cancelled_on_the_server_stops_where_it_saves(
    tmp_path, stopped_pipeline, prefect_server
):
    slow = ["--set", "stages.operator.steps_per_epoch=10000", "--set", "checkpoint.save_every_steps=20"]

    def cancelled(_pid):
        if not (tmp_path / "reports" / "metrics.jsonl").exists():
            return False
        newest = api(prefect_server, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
        wish = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        api(prefect_server, f"/flow_runs/{newest['id']}/set_state", wish)
        return True

    nothing = signal.SIGCONT
    code, stderr = stopped_pipeline(
        "--config", "configs/smoke.yaml", *slow, cwd=tmp_path, number=nothing, after=cancelled
    )

    flow_run, _ = task_runs(prefect_server, 1)
    assert code == 75, stderr
    assert "ups: stopped on the Prefect server, and saved" in stderr.splitlines()[-1]
    assert flow_run["state"]["name"] == "Cancelled"


def test_without_a_server_the_temporary_one_is_quiet_leaves_its_blank_database_and_is_gone(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    command = ["flows/pipeline.py", "--config", "configs/smoke.yaml", "--auto-resume", "--redo-small-eval"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / command[0]), *command[1:]],
        cwd=tmp_path / "run",
        env={**os.environ, **QUIET, **UNTRACKED, "PREFECT_API_URL": "", "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not servers_below(tmp_path):
        time.sleep(0.05)
    served = process.poll() is None
    _, stderr = process.communicate(timeout=120)

    assert process.returncode == 0, stderr
    assert served
    assert "Traceback" not in stderr
    assert stderr.count(": skip: completed at") == 5
    assert servers_below(tmp_path) == []
    assert list(tmp_path.glob("ups-prefect-*")) == []
    home = tmp_path / "home"
    home.mkdir()
    with patch("tempfile.tempdir", str(tmp_path)):
        copy_blank(home)
    with sqlite3.connect(home / "prefect.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchone() == (1,)
        assert database.execute("select count(*) from flow_run").fetchone() == (0,)


def servers_below(folder):
    """Processes that serve Prefect's API from a home below the folder."""
    found = subprocess.run(["pgrep", "-f", "blank:create_app"], capture_output=True, text=True, check=False)
    return [pid for pid in found.stdout.split() if str(folder) in environment_of(pid)]


def environment_of(pid):
    try:
        with open(f"/proc/{pid}/environ", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


HEAVY = ("torch", "wandb", "vastai", "matplotlib")


def test_a_completed_pipeline_imports_nothing_that_only_work_needs(tmp_path, finished_run, prefect_server):
    shutil.copytree(finished_run, tmp_path, dirs_exist_ok=True)
    script = (
        "import sys\n"
        "from flows.cli.main import main\n"
        "code = main(['train', '--config', 'configs/smoke.yaml', '--auto-resume'])\n"
        f"print(*({set(HEAVY)} & sys.modules.keys()), sep=', ', file=sys.stderr)\n"
        "sys.exit(code)\n"
    )

    done = run_python("-c", script, cwd=tmp_path, environment=prefect_server)

    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


def test_a_completed_run_reads_each_checkpoint_once_and_its_header(tmp_path, finished_run, prefect_server):
    shutil.copytree(finished_run, tmp_path / "run")
    checkpoints = list((tmp_path / "run" / "checkpoints").rglob("*.pt"))
    seen = tmp_path / "seen.json"
    flags = ("--config", "configs/smoke.yaml", "--auto-resume")

    done = run_python(probe.__file__, ROOT, seen, *flags, cwd=tmp_path / "run", environment=prefect_server)

    assert done.returncode == 0, done.stderr
    counted = json.loads(seen.read_text("utf-8"))
    assert counted["end"] == "end of the flow"
    assert 0 < counted["bytes"] <= 1.1 * sum(path.stat().st_size for path in checkpoints)


def run_python(*arguments, cwd, environment):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **UNTRACKED, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_where_nothing_is_left_to_do_no_server_is_started_to_record_that(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")
    words = ["train", "--config", "configs/smoke.yaml", "--auto-resume"]
    script = f"import sys; from flows.cli.main import main; code = main({words}); print(code, 'prefect' in sys.modules)"

    done = run_python("-c", script, cwd=tmp_path / "run", environment={"PREFECT_API_URL": "", "HOME": str(tmp_path)})

    assert done.stdout.splitlines()[-1] == "0 False", done.stderr
    assert done.stderr.count(": skip: completed at") == 6
