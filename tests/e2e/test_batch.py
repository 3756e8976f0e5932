"""What a batch system sends: a run stops like under SIGTERM, and the recipes of docs/batch.md start it again."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows import ROOT
from harness.commands import UNTRACKED

SMOKE = ("--config", "configs/smoke.yaml", "--set", "stages.operator.steps_per_epoch=150")
pytestmark = pytest.mark.slow

WEIGHTS = "checkpoints/operator.pt"
SCRIPTS = re.findall(r"^```sh\n(.*?)^```", (ROOT / "docs" / "batch.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
SRUN = """#!/bin/bash
# Starts the step, and passes on what the scheduler sends.
"$@" &
echo $! > step
wait $!
code=$?
while kill -0 "$(cat step)" 2> /dev/null; do wait "$(cat step)"; code=$?; done
exit $code
"""
REQUEUE = """#!/bin/bash
echo "$*" >> requeued
"""


@pytest.fixture(scope="module")
def straight(tmp_path_factory, pipeline):
    root = tmp_path_factory.mktemp("straight")
    assert pipeline(*SMOKE, "--stage", "operator", cwd=root).returncode == 0
    return (root / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGHUP, marks=pytest.mark.thorough),  # a lost terminal sends it, below
        pytest.param(signal.SIGUSR1, marks=pytest.mark.thorough),  # Slurm's recipe does, below
        signal.SIGXCPU,
    ],
)
def test_it_stops_saves_and_exits_75_and_resumes_to_the_same_weights(
    number, tmp_path, pipeline, stopped_pipeline, straight
):
    code, stderr = stopped_pipeline(*SMOKE, "--stage", "operator", cwd=tmp_path, number=number)
    resumed = pipeline(*SMOKE, "--stage", "operator", "--auto-resume", cwd=tmp_path)

    assert code == 75, stderr
    assert "stopped at step" in stderr
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / WEIGHTS).read_bytes() == straight


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_before_the_flow_runs_it_exits_75_as_well(number, tmp_path, stopped_pipeline):
    def handles_it(pid):
        """Python and our command line have begun; Prefect is not yet imported."""
        [caught] = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text("utf-8"), re.MULTILINE)
        return bool(int(caught, 16) >> (number - 1) & 1)

    code, stderr = stopped_pipeline(*SMOKE, cwd=tmp_path, number=number, after=handles_it)

    assert code == 75, stderr


def test_what_is_ignored_at_the_start_stays_ignored(tmp_path, prefect_server):
    """As under nohup."""
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), *SMOKE, "--stage", "operator"]
    environment = {**os.environ, **UNTRACKED, **prefect_server}
    process = subprocess.Popen(["nohup", *command], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    wait_for(tmp_path / "reports" / "metrics.jsonl", process)

    process.send_signal(signal.SIGHUP)

    assert process.wait(120) == 0


def test_a_terminal_that_is_gone_costs_nothing(tmp_path, prefect_server, pipeline, straight):
    """The kernel sends SIGHUP, and whatever is written to the terminal from then on is an error."""
    ours, theirs = pty.openpty()
    command = [sys.executable, str(ROOT / "flows" / "pipeline.py"), *SMOKE, "--stage", "operator"]
    environment = {**os.environ, **UNTRACKED, **prefect_server, "TERM": "xterm"}
    process = subprocess.Popen(
        ["setsid", "--ctty", *command], cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    wait_for(tmp_path / "reports" / "metrics.jsonl", process, drain=ours)

    os.close(ours)

    assert process.wait(120) == 75
    assert pipeline(*SMOKE, "--stage", "operator", "--auto-resume", cwd=tmp_path).returncode == 0
    assert (tmp_path / WEIGHTS).read_bytes() == straight


@pytest.mark.parametrize(
    ("name", "script"), [("Slurm", SCRIPTS[0]), pytest.param("PBS", SCRIPTS[1], marks=pytest.mark.thorough)]
)
def test_the_recipe_is_requeued_until_it_is_done(name, script, tmp_path, prefect_server, straight):
    """A script that plays the scheduler: it sends USR1, sees 75, starts the job again, and ends with 0."""
    job = tmp_path / "job.sh"
    options = " ".join(["--config configs/smoke.yaml --stage operator --set", SMOKE[-1]])
    job.write_text(script.replace("--config configs/burgers_32dim.yaml", options), encoding="utf-8")
    for tool, text in {"srun": SRUN, "scontrol": REQUEUE, "qsub": REQUEUE}.items():
        path = tmp_path / "bin" / tool
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    environment = {**os.environ, **UNTRACKED, **prefect_server, "HOME": str(tmp_path), "SLURM_JOB_ID": "17"}
    environment |= {"PBS_O_WORKDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    run = tmp_path / "runs" / "mine"

    first = subprocess.Popen(["bash", str(job)], cwd=tmp_path, env=environment)
    wait_for(run / "reports" / "metrics.jsonl", first)
    os.kill(step_of(first, tmp_path), signal.SIGUSR1)
    codes = [first.wait(120), subprocess.run(["bash", str(job)], cwd=tmp_path, env=environment, check=False).returncode]

    assert codes == [75, 0]
    assert len((tmp_path / "requeued").read_text("utf-8").splitlines()) == 1
    assert (run / WEIGHTS).read_bytes() == straight


def step_of(job, root):
    """The process that the scheduler signals: what srun started, or what runs below `timeout`, which passes it on."""
    if (root / "step").exists():
        return int((root / "step").read_text("utf-8"))
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text("utf-8").split()
    return int(children[0])


def wait_for(path, process, drain=None):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        if drain is not None:
            os.set_blocking(drain, False)
            with contextlib.suppress(BlockingIOError):
                os.read(drain, 65536)
        time.sleep(0.02)


ENDS_AT_ONCE = """
import sys, time
from tasks.services.run.signals import end_at_once_on_sigterm
from tasks.services.run.uninterrupted import uninterrupted

def work(stop):
    print("working", flush=True)
    while not stop():
        time.sleep(0.01)
    print("saved", flush=True)

end_at_once_on_sigterm("stopped by a signal")
if sys.argv[1] == "working":
    uninterrupted(work)
else:
    print("idle", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("when", "said"), [("working", ["working", "saved"]), ("idle", ["idle"])])
def test_where_a_signal_would_end_the_process_work_is_finished_first(when, said):
    process = subprocess.Popen(
        [sys.executable, "-c", ENDS_AT_ONCE, when],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    first = process.stdout.readline().strip()

    process.send_signal(signal.SIGTERM)
    rest, stderr = process.communicate(timeout=30)

    assert process.returncode == 75
    assert [first, *rest.split()] == said
    assert stderr == "ups: stopped by a signal\n"
