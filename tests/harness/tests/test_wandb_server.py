"""The real client against the server on loopback: what it writes, reads, refuses and survives."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from harness import PYTHONPATH
from harness.emulators.wandb.server import WandbServer

KEY = "k" * 40
ROOT = Path(__file__).parents[3]
PRELUDE = """
import json, os, sys, time, urllib.request
import wandb
def fault(**switches):
    request = urllib.request.Request(os.environ["WANDB_BASE_URL"] + "/faults", json.dumps(switches).encode())
    return json.load(urllib.request.urlopen(request))
def start(run_id, resume=None, **more):
    quick = wandb.Settings(init_timeout=20, finish_timeout=20, x_disable_machine_info=True, x_disable_meta=True)
    return wandb.init(project="p", id=run_id, resume=resume, settings=quick, **more)
def log(run, collection, files, **more):
    artifact = wandb.Artifact(collection, type="model", metadata=more.pop("metadata", None))
    for name, text in files.items():
        with artifact.new_file(name) as file:
            file.write(text)
    run.log_artifact(artifact, **more)
    artifact.wait(20)
    return artifact
def say(**facts):
    sys.__stdout__.write("FACTS " + json.dumps(facts) + chr(10))
    sys.__stdout__.flush()
"""


class Client:
    """Runs scripts that use wandb, each in a process of its own, with every directory under tmp."""

    def __init__(self, server: WandbServer, tmp: Path) -> None:
        self.server = server
        self.tmp = tmp
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        self.environment = kept | {
            "HOME": str(tmp),
            "NETRC": str(tmp / "netrc"),
            "OMP_NUM_THREADS": "1",
            "WANDB_BASE_URL": server.url,
            "WANDB_API_KEY": KEY,
            "WANDB_DIR": str(tmp),
            "WANDB_CACHE_DIR": str(tmp / "cache"),
            "WANDB_CONFIG_DIR": str(tmp / "config"),
            "WANDB_DATA_DIR": str(tmp / "data"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }

    def open(self, script: str, **environment: str) -> subprocess.Popen[str]:
        guarded = f"{PRELUDE}\ntry:\n{_indented(script)}\nfinally:\n    wandb.teardown()\n"
        return subprocess.Popen(
            [sys.executable, "-c", guarded],
            env=self.environment | environment,
            cwd=self.tmp,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, timeout_s: float = 180, **environment: str) -> dict[str, Any]:
        """Everything the script said, merged; a script that fails fails the test."""
        process = self.open(script, **environment)
        out, err = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, f"{out}\n{err}"
        facts: dict[str, Any] = {}
        for line in out.splitlines():
            if line.startswith("FACTS "):
                facts |= json.loads(line.removeprefix("FACTS "))
        return facts


def _indented(script: str) -> str:
    return "\n".join(f"    {line}" for line in script.splitlines())


@pytest.fixture
def server():
    with WandbServer() as running:
        yield running


@pytest.fixture
def client(server, tmp_path):
    return Client(server, tmp_path)


def wait_for(condition, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


# ------------------------------------------------------------------------------------------------- runs


def test_a_run_leaves_its_config_rows_summary_files_and_state(client, server):
    client.run("""
with start("r1", config={"lr": 0.1}, name="first", tags=["a"], notes="n", group="g", job_type="train") as run:
    for i in range(3):
        run.log({"loss": 3 - i})
    print("printed")
    wandb.alert("title", "text")
    """)

    run = server.run("researcher", "p", "r1")
    assert (run.state, run.created, run.config) == ("finished", 1, {"lr": 0.1})
    assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 3), (1, 2), (2, 1)]
    assert run.summary["loss"] == 1
    assert (run.display_name, run.tags, run.notes, run.group, run.job_type) == ("first", ["a"], "n", "g", "train")
    assert {"config.yaml", "wandb-summary.json", "output.log"} <= set(run.files)
    assert any("printed" in line for line in run.output_lines)
    assert run.alerts[0]["title"] == "title"
    assert server.errors == []


def test_images_html_and_tables_arrive_as_run_files(client, server):
    client.run("""
import numpy as np
with start("r1") as run:
    run.log({"image": wandb.Image(np.zeros((4, 4), dtype=np.uint8)), "page": wandb.Html("<p>hello</p>")})
    run.log({"table": wandb.Table(columns=["a"], data=[[1]])})
    """)

    run = server.run("researcher", "p", "r1")
    by_kind = {name.split("/")[1]: content for name, content in run.files.items() if name.startswith("media/")}
    assert set(by_kind) == {"images", "html", "table"}
    assert by_kind["images"].startswith(b"\x89PNG")
    assert b"<p>hello</p>" in by_kind["html"]
    assert run.history[0]["image"]["_type"] == "image-file"
    assert server.errors == []


def test_resume_modes_on_missing_and_existing_runs(client, server):
    facts = client.run("""
from wandb.errors import UsageError
def refused(run_id, resume):
    try:
        start(run_id, resume).finish()
    except UsageError:
        return True
    return False
say(must_missing=refused("none", "must"), never_missing=refused("never", "never"))
say(allow_missing=refused("r1", "allow"), never_existing=refused("r1", "never"))
    """)

    assert facts == {"must_missing": True, "never_missing": False, "allow_missing": False, "never_existing": True}
    assert set(server.runs) == {"researcher/p/never", "researcher/p/r1"}


def test_a_resumed_run_goes_on_where_it_stopped(client, server):
    facts = client.run("""
for resume in ("allow", "must"):
    with start(resume, config={"lr": 0.1, "seed": 1}) as run:
        for i in range(5):
            run.log({"loss": i})
    with start(resume, resume, config={"seed": 2}) as run:
        say(**{resume: [run.resumed, run.starting_step, dict(run.config), run.summary.get("loss")]})
        run.log({"loss": 9})
    """)

    assert facts["allow"] == facts["must"] == [True, 5, {"lr": 0.1, "seed": 2}, 4]
    for run in server.runs.values():
        assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 9)]
        assert (run.created, run.state) == (2, "finished")


def test_an_id_used_again_without_resume_mixes_its_rows(client, server):
    client.run("""
for loss in (1, 2):
    with start("r1", config={f"only{loss}": loss}) as run:
        run.log({"loss": loss})
    """)

    run = server.run("researcher", "p", "r1")
    assert [(row["_step"], row["loss"]) for row in run.history] == [(0, 1), (0, 2)]
    assert (run.created, run.config) == (2, {"only2": 2})


def test_the_end_of_a_run_decides_its_state(client, server):
    client.run("""
start("failed").finish(exit_code=1)
run = start("preempted")
run.mark_preempting()
run.finish(exit_code=143)
    """)

    assert server.run("researcher", "p", "failed").state == "failed"
    preempted = server.run("researcher", "p", "preempted")
    assert (preempted.state, preempted.exit_code) == ("preempted", 143)


def test_a_silent_run_has_crashed(tmp_path):
    with WandbServer(crash_after_s=0.2) as server:
        process = Client(server, tmp_path).open('start("r1")\nos.kill(os.getpid(), 9)')
        process.communicate()

        wait_for(lambda: server.run("researcher", "p", "r1").state == "crashed")


def test_an_offline_run_is_delivered_by_sync(client, server):
    client.run(
        """
run = start("r1", config={"lr": 0.1})
for i in range(4):
    run.log({"loss": i})
artifact = wandb.Artifact("ckpt", type="model")
with artifact.new_file("a.txt") as file:
    file.write("offline")
run.log_artifact(artifact)
run.finish()
        """,
        WANDB_MODE="offline",
    )
    assert server.runs == {}

    (directory,) = client.tmp.glob("wandb/offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", str(directory)]
    subprocess.run(command, env=client.environment, cwd=client.tmp, check=True, capture_output=True, timeout=180)

    run = server.run("researcher", "p", "r1")
    assert ([row["loss"] for row in run.history], run.config, run.state) == ([0, 1, 2, 3], {"lr": 0.1}, "finished")
    assert "config.yaml" in run.files
    assert server.content(server.artifact("researcher", "p", "ckpt:v0")) == {"a.txt": b"offline"}


# -------------------------------------------------------------------------------------------- artifacts


def test_versions_count_up_and_only_new_bytes_travel(client, server):
    facts = client.run("""
with start("r1") as run:
    first = log(run, "ckpt", {"big": "x" * 1000, "small": "1"}, metadata={"step": 1}, aliases=["operator"])
    second = log(run, "ckpt", {"big": "x" * 1000, "small": "2"})
    same = log(run, "ckpt", {"big": "x" * 1000, "small": "2"}, aliases=["again"])
    say(versions=[a.version for a in (first, second, same)], states=[a.state for a in (first, second, same)])
    """)

    assert facts == {"versions": ["v0", "v1", "v1"], "states": ["COMMITTED"] * 3}
    first, second = server.artifacts["researcher/p/ckpt"]
    assert (first.aliases, first.metadata) == (["operator"], {"step": 1})
    assert sorted(second.aliases) == ["again", "latest"]
    assert sorted(upload.size for upload in server.blob_puts) == [1, 1, 1000]
    assert server.content(first) == {"big": b"x" * 1000, "small": b"1"}
    assert server.content(second) == {"big": b"x" * 1000, "small": b"2"}
    assert server.errors == []


def test_artifacts_are_found_downloaded_verified_and_retired(client, server):
    facts = client.run("""
with start("r1") as run:
    for i in range(3):
        log(run, "ckpt", {"a/b.txt": str(i)}, aliases=["operator"] if i == 0 else None)
with start("r2") as run:
    used = run.use_artifact("ckpt:operator")
    say(used=[used.name, used.version])
api = wandb.Api()
def names():
    return [(a.name, sorted(a.aliases)) for a in api.artifacts("model", "researcher/p/ckpt")]
latest = api.artifact("researcher/p/ckpt:latest")
folder = latest.download("fresh", skip_cache=True)
latest.verify(folder)
say(text=open(folder + "/a/b.txt").read(), before=names(), files=[f.name for f in latest.files()])
by_index = api.artifact("researcher/p/ckpt:v1")
by_index.aliases.append("best")
by_index.metadata["kept"] = True
by_index.save()
try:
    api.artifact("researcher/p/ckpt:v0").delete()
except Exception as error:
    say(kept_for_its_alias=str(error), still=len(names()))
api.artifact("researcher/p/ckpt:v0").delete(delete_aliases=True)
say(after=names(), size=latest.size, logged_by=latest.logged_by().id, users=[r.id for r in latest.used_by()])
say(logged=sorted(a.name for a in api.run("researcher/p/r1").logged_artifacts()))
try:
    api.artifact("researcher/p/ckpt:operator")
except wandb.errors.CommError as error:
    say(gone=str(error))
    """)

    assert facts["used"] == ["ckpt:operator", "v0"]
    assert facts["text"] == "2"
    assert facts["files"] == ["a/b.txt"]
    assert facts["before"] == [["ckpt:v2", ["latest"]], ["ckpt:v1", []], ["ckpt:v0", ["operator"]]]
    assert facts["kept_for_its_alias"]
    assert facts["still"] == 3
    assert facts["after"] == [["ckpt:v2", ["latest"]], ["ckpt:v1", ["best"]]]
    assert (facts["size"], facts["logged_by"], facts["users"]) == (1, "r1", [])
    assert facts["logged"] == ["ckpt:v1", "ckpt:v2"]
    assert "not found" in facts["gone"]
    assert [a.state for a in server.artifacts["researcher/p/ckpt"]] == ["DELETED", "COMMITTED", "COMMITTED"]
    assert server.artifact("researcher", "p", "ckpt:v1").metadata == {"kept": True}
    assert server.run("researcher", "p", "r2").used_artifacts == ["ckpt:v0"]


def test_a_client_killed_in_an_upload_leaves_only_the_committed_version(client, server):
    client.run('with start("r1") as run:\n    log(run, "ckpt", {"a": "first"})')
    server.faults.upload_bytes_per_s = 500_000
    begun = server.uploads_begun.count("blob")
    process = client.open('run = start("r1", "must")\nlog(run, "ckpt", {"a": "x" * 10_000_000})')
    wait_for(lambda: server.uploads_begun.count("blob") > begun)

    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.faults.upload_bytes_per_s = None
    wait_for(lambda: any(upload.status == 0 for upload in server.uploads))

    latest = server.artifact("researcher", "p", "ckpt:latest")
    assert (latest.version, server.content(latest)) == (0, {"a": b"first"})
    assert [a.state for a in server.artifacts["researcher/p/ckpt"]] == ["COMMITTED", "PENDING"]
    facts = client.run("""
say(names=[a.name for a in wandb.Api().artifacts("model", "researcher/p/ckpt")])
with start("r1", "must") as run:
    log(run, "ckpt", {"a": "second"})
    """)
    assert facts["names"] == ["ckpt:v0"]
    assert server.artifact("researcher", "p", "ckpt:latest").version == 1


# ------------------------------------------------------------------------------------------------- API


def test_the_api_reads_runs_history_and_files(client, server):
    facts = client.run("""
for name, lr in (("r1", 0.1), ("r2", 0.2)):
    with start(name, config={"lr": lr}) as run:
        for i in range(3):
            run.log({"loss": i * lr, "even": i} if i % 2 == 0 else {"loss": i * lr})
api = wandb.Api()
run = api.run("researcher/p/r2")
say(config=run.config, state=run.state, loss=run.summary["loss"], files=sorted(f.name for f in run.files()))
say(history=[r["loss"] for r in run.history(pandas=False)], scan=[r["loss"] for r in run.scan_history()])
say(even=[r["even"] for r in run.scan_history(keys=["even"])], sampled=len(run.history(keys=["even"], pandas=False)))
say(text=run.file("config.yaml").download("files").read(), last=run.lastHistoryStep)
say(runs=[r.id for r in api.runs("researcher/p")], low=[r.id for r in api.runs("researcher/p", {"config.lr": 0.1})])
run.tags.append("seen")
run.config["note"] = "n"
run.summary["extra"] = 7
run.update()
again = wandb.Api().run("researcher/p/r2")
say(tags=again.tags, note=again.config["note"], extra=again.summary["extra"], again=again.state)
api.run("researcher/p/r1").delete()
say(left=[r.id for r in wandb.Api().runs("researcher/p")])
    """)

    assert (facts["config"], facts["state"], facts["loss"], facts["last"]) == ({"lr": 0.2}, "finished", 0.4, 2)
    assert {"config.yaml", "wandb-summary.json"} <= set(facts["files"])
    assert facts["history"] == facts["scan"] == [0.0, 0.2, 0.4]
    assert (facts["even"], facts["sampled"]) == ([0, 2], 2)
    assert "lr" in facts["text"]
    assert (facts["runs"], facts["low"], facts["left"]) == (["r1", "r2"], ["r1"], ["r2"])
    assert (facts["tags"], facts["note"], facts["extra"], facts["again"]) == (["seen"], "n", 7, "finished")
    assert server.errors == []


def test_a_row_that_is_not_finite_can_be_read(client, server):
    facts = client.run("""
with start("r1") as run:
    run.log({"loss": float("nan"), "top": float("inf")})
run = wandb.Api().run("researcher/p/r1")
say(history=repr(run.history(pandas=False)[0]["loss"]), scan=[repr(row["top"]) for row in run.scan_history()])
say(sampled=len(run.history(keys=["loss"], pandas=False)), summary=repr(run.summary["loss"]))
    """)

    assert facts == {"history": "nan", "scan": ["inf"], "sampled": 1, "summary": "nan"}


def test_what_is_missing_is_told_from_what_is_unreachable(client, server):
    facts = client.run("""
start("r1").finish()
def kind(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, type(getattr(error, "exc", None)).__name__]
    return []
api = wandb.Api()
say(run=kind(lambda: api.run("researcher/p/nope")), artifact=kind(lambda: api.artifact("researcher/p/nope:latest")))
say(project=kind(lambda: len(api.runs("researcher/nope"))), foreign=kind(lambda: api.run("researcher/nope/r1")))
say(artifact_project=kind(lambda: api.artifact("researcher/nope/x:latest")))
    """)

    assert facts["run"] == facts["foreign"] == ["CommError", "RunNotFoundError"]
    assert facts["artifact"][0] == facts["artifact_project"][0] == "CommError"
    assert facts["project"] == ["ValueError", "NoneType"]


def test_a_wrong_key_is_refused(tmp_path):
    with WandbServer(api_keys={"r" * 40}) as server:
        client = Client(server, tmp_path)
        script = """
try:
    start("r1").finish()
except Exception as error:
    say(init=type(error).__name__)
try:
    wandb.Api().run("researcher/p/r1")
except Exception as error:
    say(api=type(error).__name__)
        """

        wrong, right = client.run(script), client.run(script, WANDB_API_KEY="r" * 40)

        assert set(wrong) == {"init", "api"}
        assert right == {}


# ----------------------------------------------------------------------------------------------- faults


def test_a_refused_upload_fails_the_wait_and_commits_nothing(client, server):
    server.faults.refuse_uploads = 403

    facts = client.run("""
with start("r1") as run:
    try:
        log(run, "ckpt", {"a": "1"})
    except ValueError as error:
        say(error=str(error))
    """)

    assert "failed" in facts["error"]
    assert [a.state for a in server.artifacts["researcher/p/ckpt"]] == ["PENDING"]
    assert server.puts == server.put_bytes == 0


def test_failures_and_lost_connections_of_the_api_are_retried(client, server):
    client.run("""
run = start("r1")
fault(fail_next=1)
log(run, "ckpt", {"a": "1"})
run.log({"loss": 1})
fault(drop_next=1)
run.finish()
    """)

    assert (server.faults.fail_next, server.faults.drop_next) == (0, 0)
    assert server.artifact("researcher", "p", "ckpt:v0").state == "COMMITTED"
    assert [row["loss"] for row in server.run("researcher", "p", "r1").history] == [1]


def test_a_broken_upload_is_sent_again(client, server):
    server.faults.drop_uploads_after_bytes = 1000
    process = client.open('with start("r1") as run:\n    log(run, "ckpt", {"a": "x" * 100_000})')
    wait_for(lambda: any(upload.status == 0 for upload in server.uploads))

    server.faults.drop_uploads_after_bytes = None
    out, err = process.communicate(timeout=180)

    assert process.returncode == 0, out + err
    assert server.content(server.artifact("researcher", "p", "ckpt:latest")) == {"a": b"x" * 100_000}


def test_a_corrupt_download_fails_verification(client, server):
    facts = client.run("""
with start("r1") as run:
    log(run, "ckpt", {"a": "1"})
fault(corrupt_downloads=True)
artifact = wandb.Api().artifact("researcher/p/ckpt:latest")
try:
    artifact.verify(artifact.download("fresh", skip_cache=True))
except ValueError as error:
    say(error=str(error))
    """)

    assert "Digest mismatch" in facts["error"]


def test_a_server_that_goes_away_blocks_no_log_and_gets_every_row_when_it_is_back(client, server):
    process = client.open("""
run = start("r1")
run.log({"loss": 0})
open("begun", "w").close()
while not os.path.exists("gone"):
    time.sleep(0.02)
for i in range(1, 100):
    run.log({"loss": i})
open("logged", "w").close()
run.finish()
    """)
    wait_for((client.tmp / "begun").exists)
    port = server.port
    server.stop()

    (client.tmp / "gone").touch()
    wait_for((client.tmp / "logged").exists)  # before anybody listens again
    server.start()
    out, err = process.communicate(timeout=180)

    assert process.returncode == 0, out + err
    assert server.port == port
    assert [row["loss"] for row in server.run("researcher", "p", "r1").history] == list(range(100))


def test_faults_are_read_and_set_over_http(server):
    def post(body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{server.url}/faults", json.dumps(body).encode())
        return json.load(urllib.request.urlopen(request))

    assert post({"refuse_uploads": 403})["refuse_uploads"] == 403
    assert server.faults.refuse_uploads == 403
    with pytest.raises(urllib.error.HTTPError, match="400"):
        post({"no_such_fault": 1})


# ------------------------------------------------------------------------------- secrets, state, command


def test_the_log_of_requests_shows_where_a_text_arrived_but_no_key(client, server):
    client.run("""
with start("r1", config={"note": "canary-config"}) as run:
    run.log({"text": "canary-row"})
    log(run, "ckpt", {"a": "canary-file"})
    """)

    assert "POST UpsertBucket" in server.saw(b"canary-config")
    assert "POST /files/researcher/p/r1/file_stream" in server.saw(b"canary-row")
    assert [where.split("/")[2] for where in server.saw(b"canary-file")] == ["blob"]
    assert server.saw(KEY.encode()) == []


def test_the_command_keeps_its_state_from_one_start_to_the_next(tmp_path):
    def start_command() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "harness.emulators.wandb.server", "--state-dir", str(tmp_path / "state")]
        environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    def stop_command(process: subprocess.Popen[str]) -> None:
        process.terminate()
        process.communicate(timeout=10)
        assert process.returncode == 0

    process, url = start_command()
    client = Client(WandbServer(), tmp_path)
    try:
        client.run(
            'with start("r1") as run:\n    run.log({"loss": 1})\n    log(run, "ckpt", {"a": "1"})', WANDB_BASE_URL=url
        )
    finally:
        stop_command(process)
    process, url = start_command()
    try:
        facts = client.run(
            """
with start("r1", "must") as run:
    run.log({"loss": 2})
    log(run, "ckpt", {"a": "2"})
api = wandb.Api()
say(losses=[row["loss"] for row in api.run("researcher/p/r1").history(pandas=False)])
say(names=[a.name for a in api.artifacts("model", "researcher/p/ckpt")])
            """,
            WANDB_BASE_URL=url,
        )
    finally:
        stop_command(process)

    assert facts == {"losses": [1, 2], "names": ["ckpt:v1", "ckpt:v0"]}
