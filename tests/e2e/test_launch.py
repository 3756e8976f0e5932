"""`ups launch`, `ups instances`, `ups destroy`: the real command against Vast.ai's emulator and W&B on loopback."""

import os
import shlex
import subprocess
import sys
import time

import pytest
import yaml

from flows import ROOT
from harness.chaos.demo import train_remotely
from harness.chaos.launch_matrix import live_through_all
from harness.chaos.launch_matrix_cases import CASES
from harness.chaos.launch_matrix_runpod import RUNPOD_CASES
from harness.chaos.remote import MARKET_KEYS, VAST_KEY, WANDB_KEY
from tasks.services.rental.provider import MachineSpec
from tasks.services.rental.providers.vast import VastProvider

DISTURBANCES = ("controller", "outbid", "offline")  # the last meets a machine with most of its steps before it
SMOKE = ("--config", "configs/smoke.yaml", "--set", "runtime.device=cpu")


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A training that was disturbed in every way, and the folder where everything of it lies."""
    scratch = tmp_path_factory.mktemp("launch")
    return train_remotely(scratch, DISTURBANCES, echo=lambda _: None, steps_per_epoch=2400), scratch


@pytest.mark.slow
@pytest.mark.thorough  # CI runs make demo-preemption
def test_a_training_that_is_outbid_cut_off_and_left_alone_ends_with_the_same_weights(seen):
    result, _ = seen

    assert result.code == 0, "\n".join(result.lines)
    assert result.disturbed == list(DISTURBANCES)
    assert (result.machines, result.most_live, result.live) == (3, 1, 0)
    assert result.identical
    assert 0 < result.usd < 1


@pytest.mark.thorough  # CI runs make demo-preemption
def test_a_machine_that_was_given_up_and_lives_stops_writing(seen):
    result, _ = seen

    assert "a later machine has taken over" in result.machine_logs[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("market", "name"),
    [
        ("vast", "killed-after-create"),
        pytest.param("runpod", "killed-after-create", marks=pytest.mark.thorough),
        pytest.param("runpod", "no-capacity-always", marks=pytest.mark.thorough),
    ],
)
def test_what_the_market_does_ends_as_the_matrix_says(market, name, tmp_path):
    [chosen] = [case for case in (*CASES, *RUNPOD_CASES) if (case.market, case.name) == (market, name)]

    [row] = live_through_all([chosen], tmp_path)

    assert not row.wrong, row
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if any(key.encode() in path.read_bytes() for key in MARKET_KEYS.values())] == []


@pytest.mark.thorough  # CI runs make demo-preemption
def test_no_key_is_left_in_any_file_but_that_of_the_machines_environment(seen):
    _, scratch = seen
    secrets = (VAST_KEY.encode(), WANDB_KEY.encode())

    found = [
        path for path in scratch.rglob("*") if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
    ]

    assert found == []


def test_a_dry_run_shows_offer_cost_and_script_and_rents_nothing(ups_there, cloud, tmp_path):
    done = ups_there("launch", *SMOKE, "--dry-run", "--max-hours", "10", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 x RTX 4090" in done.stdout
    assert "USD/h (bid)" in done.stdout
    assert "USD in 10 h" in done.stdout
    assert "#!/usr/bin/env bash" in done.stdout
    assert cloud.instances == []


def commands_with_the_shipped_config():
    """`ups launch` as README, the page on Vast.ai and the guide have it; dry, for this one costs."""
    pages = ("README.md", "docs/vast.md")
    lines = [line for page in pages for line in (ROOT / page).read_text("utf-8").splitlines()]
    written = [
        line.partition("#")[0] for line in lines if line.startswith("ups launch --config configs/burgers_32dim.yaml")
    ]
    guide = (
        "ups launch --config configs/burgers_32dim.yaml --resume-from-wandb train-20251028_120000 --resume-mode allow"
    )
    return [shlex.split(line.removesuffix("--dry-run"))[1:] for line in (*written, f"{guide} --auto-shutdown")]


@pytest.mark.parametrize("words", commands_with_the_shipped_config(), ids=" ".join)
def test_what_the_docs_tell_a_reader_to_launch_would_be_launched(ups_there, cloud, tmp_path, words):
    done = ups_there(*[word for word in words if word != "--dry-run"], "--dry-run", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "USD/h" in done.stdout
    assert cloud.instances == []


def test_data_of_this_machine_are_uploaded_and_fetched_by_another(ups_there, tmp_path):
    made = ups_there(
        "data", "generate", "burgers1d", "--n", "24", "--nt", "11", "--nx", "64", "--out", "a.hdf5", cwd=tmp_path
    )
    assert made.returncode == 0, made.stderr

    uploaded = ups_there("data", "upload", "a.hdf5", "--name", "of-a-launch", cwd=tmp_path)
    assert uploaded.returncode == 0, uploaded.stderr
    [entry] = yaml.safe_load(uploaded.stdout)["downloads"]
    setting = ("--set", f"data.downloads=[{{url: '{entry['url']}', sha256: {entry['sha256']}}}]")
    trained = ups_there("train", "--stage", "operator", *SMOKE, *setting, "--run-dir", "run", cwd=tmp_path)

    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "run" / "data" / "a.hdf5").read_bytes() == (tmp_path / "a.hdf5").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--max-price", "0.001"), "the cheapest is 0."),
        (("--gpu", "RTX_9999"), "has no 1 x RTX_9999"),
        (("--resume-from-wandb", "no-such-run", "--resume-mode", "must"), "WandB run not found"),
        (("--set", "data.files=[here.hdf5]"), "names files of this machine"),
    ],
)
@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)], ids=["launch", "dry run"])
def test_bad_input_is_one_line_and_nothing_is_rented(ups_there, cloud, tmp_path, arguments, named, dry_run):
    done = ups_there("launch", *SMOKE, "--poll-s", "1", *arguments, *dry_run, cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert cloud.instances == []


def test_code_that_cannot_be_fetched_is_said_before_anything_is_rented(ups_there, cloud, tmp_path):
    done = ups_there("launch", *SMOKE, "--code", "git:file:///no/such/repository@abcdef1", cwd=tmp_path)

    assert done.returncode == 2, done.stderr
    assert "cannot be fetched" in done.stderr
    assert cloud.instances == []


def test_a_detached_launch_goes_on_by_itself_and_writes_to_its_log(ups_there, cloud, tmp_path):
    cloud.faults.no_credit = -1
    log = tmp_path / "launch.log"

    done = ups_there("launch", *SMOKE, "--poll-s", "1", "--detach", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while "no credit" not in (log.read_text("utf-8") if log.exists() else "") and time.monotonic() < deadline:
        time.sleep(0.2)

    assert done.returncode == 0, done.stderr
    assert "continues in the background" in done.stdout
    assert "no credit" in log.read_text("utf-8")


def test_what_is_wrong_is_said_before_a_launch_detaches(ups_there, cloud, tmp_path):
    done = ups_there("launch", *SMOKE, "--detach", "--max-price", "0.001", cwd=tmp_path)

    assert done.returncode == 2
    assert "the cheapest is 0." in done.stderr
    assert not (tmp_path / "launch.log").exists()


def test_no_credit_is_for_the_account_owner_and_leaves_nothing(ups_there, cloud, tmp_path):
    cloud.faults.no_credit = -1

    done = ups_there("launch", *SMOKE, "--poll-s", "1", cwd=tmp_path)

    assert done.returncode == 2
    assert "no credit" in done.stderr
    assert cloud.live() == []


@pytest.fixture
def rented(cloud, monkeypatch, tmp_path):
    """Two machines of ours and one of somebody else's."""
    for name, value in (("VAST_URL", cloud.url), ("VAST_API_KEY", VAST_KEY), ("HOME", str(tmp_path))):
        monkeypatch.setenv(name, value)
    vast, wanted = VastProvider(), MachineSpec(max_usd_per_hour=1, disk_gb=20)
    offers = vast.search(wanted)
    labels = ("ups-a-1-g1", "ups-b-1-g1", "other")
    return [
        vast.rent(offer, wanted, label=label, onstart="sleep 60", env={})
        for offer, label in zip(offers, labels, strict=False)
    ]


def test_our_instances_are_listed_and_destroyed_and_no_others(ups_there, cloud, tmp_path, rented):
    listed = ups_there("instances", cwd=tmp_path)
    gone = ups_there("destroy", "--all-mine", "--yes", cwd=tmp_path)

    assert "2 instances" in listed.stdout
    assert gone.returncode == 0, gone.stderr
    assert [str(one.id) for one in cloud.live()] == [rented[2]]


def test_where_nothing_is_ours_there_is_nothing_to_destroy_and_nothing_to_ask(ups_there, tmp_path):
    gone = ups_there("destroy", "--all-mine", cwd=tmp_path)

    assert (gone.returncode, gone.stdout) == (0, "no instances\n")


def test_a_script_that_cannot_be_asked_destroys_nothing_and_says_why(ups_there, cloud, tmp_path, rented):
    done = ups_there("destroy", "--all-mine", cwd=tmp_path)

    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(cloud.live()) == 3


def test_destroying_asks_first(cloud, tmp_path, rented):
    asked = subprocess.run(
        [sys.executable, "-m", "flows.cli", "destroy", str(rented[0])],
        input="n\n",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "Destroy? [y/N]" in asked.stdout
    assert len(cloud.live()) == 3


def test_what_is_not_ours_is_not_destroyed(ups_there, cloud, tmp_path, rented):
    done = ups_there("destroy", str(rented[2]), "--yes", cwd=tmp_path)

    assert done.returncode == 2
    assert "none of ours" in done.stderr
    assert len(cloud.live()) == 3
