"""Training needs nobody's home, nobody's database and no Prefect server: the work is done all the same, exit 0."""

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flows import ROOT
from harness.chaos.checks import differences, outcome
from harness.chaos.workload import BRIEF, run_plainly
from harness.commands import UNTRACKED
from harness.trust.server import trial
from tasks.services.run.paths import RunDir

SMOKE = ("--config", "configs/smoke.yaml")
A_LITTLE = ("--auto-resume", "--redo-small-eval")
"""Of a finished run: without anything to do, no server of its own is started."""
RECORD = "this run goes on without Prefect's record"


def train(cwd, *flags, environment=None, wrap=()):
    """`python flows/pipeline.py FLAGS` without a server in the environment."""
    cwd.mkdir(exist_ok=True)
    given = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [*wrap, sys.executable, str(ROOT / "flows" / "pipeline.py"), *SMOKE, *flags],
        cwd=cwd,
        env={**given, **UNTRACKED, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def assert_whole(root, finished_run, done, warnings):
    """It ended as an undisturbed run does, after so many warnings about Prefect."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert sum("Prefect" in line or "profiles" in line for line in done.stderr.splitlines()) == warnings, done.stderr
    one, other = (outcome(RunDir.of(run, run / "checkpoints")) for run in (root, finished_run))
    assert differences(one, other) == []


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home" / ".prefect").mkdir(parents=True)
    return tmp_path / "home"


@pytest.mark.slow
def test_a_damaged_database_and_broken_profiles_of_the_user_are_not_used(tmp_path, home, finished_run):
    (home / ".prefect" / "prefect.db").write_bytes(b"no database" * 1000)
    (home / ".prefect" / "profiles.toml").write_text("[profiles\n", encoding="utf-8")

    done = train(tmp_path / "run", environment={"HOME": str(home), "TMPDIR": str(tmp_path)})

    assert_whole(tmp_path / "run", finished_run, done, warnings=1)
    assert "profiles.toml: holds no profiles of Prefect" in done.stderr
    assert sorted(path.name for path in (home / ".prefect").iterdir()) == ["prefect.db", "profiles.toml"]
    assert list(tmp_path.glob("ups-prefect-*")) == []


def test_a_home_that_is_not_there_is_not_missed(tmp_path, finished_run):
    shutil.copytree(finished_run, tmp_path / "run")

    done = train(tmp_path / "run", *A_LITTLE, environment={"HOME": "/proc/no-home", "PREFECT_HOME": __file__})

    assert_whole(tmp_path / "run", finished_run, done, warnings=1)
    assert "is a file where Prefect needs a folder" in done.stderr


def test_without_loopback_the_run_is_not_recorded_and_done(tmp_path, finished_run):
    apart = shutil.which("unshare")
    if apart is None or subprocess.run([apart, "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody take the network away")
    shutil.copytree(finished_run, tmp_path / "run")

    done = train(tmp_path / "run", *A_LITTLE, wrap=[apart, "-n"])

    assert_whole(tmp_path / "run", finished_run, done, warnings=1)


@pytest.mark.parametrize("url", ["http://somebody:secret@127.0.0.1:9/api", "nowhere"])
def test_a_server_that_does_not_answer_is_named_and_training_goes_on(tmp_path, finished_run, url):
    shutil.copytree(finished_run, tmp_path / "run")
    environment = {"PREFECT_API_URL": url}

    done = train(tmp_path / "run", "--auto-resume", environment=environment)
    refused = train(tmp_path / "run", "--auto-resume", "--require-server", environment=environment)

    assert_whole(tmp_path / "run", finished_run, done, warnings=1)
    assert RECORD in done.stderr
    assert refused.returncode == 2
    assert "because of --require-server" in refused.stderr.splitlines()[-1]
    assert "secret" not in done.stderr + refused.stderr


class Refuser(ThreadingHTTPServer):
    """An address that answers everything with this code."""

    def __init__(self, code):
        super().__init__(("127.0.0.1", 0), Refusal)
        self.code = code


class Refusal(BaseHTTPRequestHandler):
    """One answer."""

    server: Refuser

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST  # noqa: N815 - the name is given

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("code", [401, 403, 500, 503])
def test_a_server_that_refuses_us_is_named_and_training_goes_on(tmp_path, finished_run, code):
    shutil.copytree(finished_run, tmp_path / "run")
    with Refuser(code) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/api"
        done = train(tmp_path / "run", "--auto-resume", environment={"PREFECT_API_URL": url})
        server.shutdown()

    assert_whole(tmp_path / "run", finished_run, done, warnings=1)
    assert f"{url}: the Prefect server answers {code}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("point", ["in operator", pytest.param("at the end of the flow", marks=pytest.mark.thorough)])
def test_a_server_that_dies_in_the_middle_costs_nothing_but_its_record(tmp_path, point):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    run_plainly(BRIEF, tmp_path / "undisturbed")
    expected = outcome(RunDir.of(tmp_path / "undisturbed", tmp_path / "undisturbed" / "checkpoints"))

    row = trial("temporary", point, tmp_path / "run", expected, {**environment, **UNTRACKED}, 0)

    assert row.well, str(row)
