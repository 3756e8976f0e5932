"""Bad input: exit 2, one line with what, where and what to do; nothing written."""

import json
import shutil

import h5py
import numpy as np
import pytest
import torch

from flows import ROOT

SMOKE = str(ROOT / "configs" / "smoke.yaml")


@pytest.fixture
def refusal(here, ups):
    """The one line on stderr of a command that must exit with 2."""

    def refuse(*arguments):
        done = ups(*arguments)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        return done.stderr

    return refuse


def listing(directory):
    return sorted(path.name for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latent: {dim: [", "invalid YAML"),
        ("latnet: {dim: 8}", "unknown key latnet; did you mean latent?"),
        ("latent: {dimm: 8}", "unknown key latent.dimm; did you mean latent.dim?"),
        ("latent: {dim: many}", "latent.dim"),
        ("latent: {dim: yes}", "should be a number, not yes/no"),
        ("latent: {dim: 0}", "greater than or equal to 1"),
        ("latent: {dim: 12}", "latent.dim=12 is not divisible by denoiser.scale_groups=8"),
        ("latent: {tokens: 48}", "latent.tokens=48 does not divide data.points=256"),
        ("operator: {modes: 18}", "must not exceed"),
        ("seed: 1\nseed: 2", "key 'seed' is given twice"),
        ("- a list", "a config is a mapping of sections"),
        ("data: {generate: {n: 10}}", "leaves nothing to train on"),
        ("stages: {operator: {epochs: -1}}", "stages.operator.epochs"),
        ("stages: {operator: {unroll: [0]}}", "stages.operator.unroll.0"),
        ("data: {generate: {nt: 5}}", "stages.operator.unroll=8 steps need more than 8 times"),
        ("data: {generate: {parameters: [-0.1]}}", "generate.parameters.0: Nu=-0.1 is not possible"),
        ("data: {limit: 100}", "data.limit=100 leaves nothing to train on"),
    ],
)
def test_a_config_that_does_not_describe_a_run_is_refused(here, refusal, text, expected):
    (here / "config.yaml").write_text(text, encoding="utf-8")

    message = refusal("train", "--config", "config.yaml")

    assert expected in message
    assert "config.yaml" in message
    assert listing(here) == ["config.yaml"]


def test_a_missing_config_is_named(here, refusal):
    assert "nowhere.yaml: no such config file" in refusal("train", "--config", "nowhere.yaml")
    assert listing(here) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--stage", "operater"], "--stage"),
        (["--auto-resume", "--force-train"], "--auto-resume and --force-train contradict"),
        (["--skip-training", "--force-train"], "--skip-training and --force-train contradict"),
        (["--skip-small-eval", "--redo-small-eval"], "contradict"),
        (["--skip-full-eval", "--redo-full-eval"], "contradict"),
        (["--skip-training", "--stage", "operator"], "contradict"),
        (["--set", "latent.dim"], "write it as key=value"),
        (["--set", "latent.size=3"], "unknown key latent.size"),
        (["--device", "tpu"], "--device"),
        (["--nonsense"], "unrecognized arguments: --nonsense"),
        (["--small-eval-config", "none.yaml"], "none.yaml: no such config file"),
        (["--stage", "consistency_distill"], "needs checkpoints/operator_ema.pt"),
        (["--skip-training"], "finds no completed operator"),
        (["--stage", "operator", "--redo-full-eval"], "--redo-full-eval and --stage contradict"),
        (["--skip-training", "--skip-small-eval", "--skip-full-eval"], "leave nothing to do"),
    ],
)
def test_flags_that_make_no_sense_are_refused(here, refusal, flags, expected):
    message = refusal("train", "--config", SMOKE, *flags)

    assert expected in message
    assert listing(here) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the CUDA device that the test needs absent")
def test_cuda_without_a_cuda_device_is_refused(here, refusal):
    assert "--device cuda: PyTorch sees no CUDA device" in refusal("train", "--config", SMOKE, "--device", "cuda")
    assert listing(here) == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--resume-from-wandb", "$(reboot)"), "is not a W&B run"),
        (("--resume-from-wandb", "--resume-mode=never"), "expected one argument"),
        (("--config", "no-such.yaml"), "no such config file"),
        (("--max-price", "0"), "--max-price: "),
        (("--disk", "1"), "--disk: "),
        (("--gpu", "x; rm -rf /"), "--gpu: "),
        (("--image", "$(id)"), "--image: "),
        (("--num-gpus", "0"), "--num-gpus: "),
        (("--region", "Germny"), "--region 'Germny': is not known; did you mean germany?"),
        (("--code", "git:ext::sh -c id@abcdef1"), "--code: "),
        (("--code", "git:https://host/repository@main"), "--code: "),
    ],
)
def test_a_launch_that_makes_no_sense_is_refused_before_anybody_is_asked(here, refusal, monkeypatch, flags, expected):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "key")

    assert expected in refusal("launch", "--config", SMOKE, *flags)
    assert listing(here) == []


def test_a_launch_needs_a_key_of_whoever_rents_out_machines(here, refusal, monkeypatch):
    account = {"WANDB_MODE": "online", "WANDB_API_KEY": "key", "VAST_API_KEY": "", "HOME": str(here)}
    for name, value in account.items():
        monkeypatch.setenv(name, value)

    assert "no Vast.ai key" in refusal("launch", "--config", SMOKE)


def test_a_launch_needs_a_wandb_that_its_machines_can_write_to(here, refusal):
    assert "needs W&B online" in refusal("launch", "--config", SMOKE)


def write_trajectories(path, u):
    with h5py.File(path, "w") as file:
        file.attrs["Nu"] = 0.1
        file["tensor"] = u.astype(np.float32)
        file["x-coordinate"] = ((np.arange(u.shape[2]) + 0.5) / u.shape[2]).astype(np.float32)
        file["t-coordinate"] = (np.arange(u.shape[1] + 1) * 0.05).astype(np.float32)


def use_file(path):
    return ["--config", SMOKE, "--set", f"data.files=[{path}]"]


def test_a_missing_data_file_is_named(here, refusal):
    assert "gone.hdf5: no such file" in refusal("train", *use_file("gone.hdf5"))
    assert listing(here) == []


def test_a_data_file_with_nan_is_named_with_its_dataset(here, refusal):
    u = np.ones((24, 11, 64))
    u[3, 2, 1] = np.nan
    write_trajectories(here / "u.hdf5", u)

    message = refusal("train", *use_file("u.hdf5"))

    assert "u.hdf5" in message
    assert "'tensor'" in message
    assert listing(here) == ["u.hdf5"]


def test_a_data_file_of_another_layout_is_named(here, refusal):
    with h5py.File(here / "u.hdf5", "w") as file:
        file["velocity"] = np.zeros((3, 3))

    message = refusal("train", *use_file("u.hdf5"))

    assert "u.hdf5" in message
    assert "is of no known layout; the file has ['velocity']" in message


def test_a_data_file_with_too_few_rows_is_named(here, refusal):
    write_trajectories(here / "u.hdf5", np.random.default_rng(0).random((8, 11, 64)))

    assert "u.hdf5: has 8 rows, which leaves nothing" in refusal("train", *use_file("u.hdf5"))


def test_a_data_file_with_too_few_times_is_named(here, refusal):
    write_trajectories(here / "u.hdf5", np.random.default_rng(0).random((24, 2, 64)))

    message = refusal("train", *use_file("u.hdf5"))

    assert "u.hdf5: stages.operator.unroll=2 steps need more than 2 times" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--n", "0"], "'0' is no whole number above zero"),
        (["--seed", "-1"], "'-1' is no whole number"),
        (["--nu", "-0.1"], "Nu=-0.1 is not possible for burgers1d; use a value above 0"),
        (["--t-end", "inf"], "'inf' is no finite number"),
        (["--nx", "0"], "'0' is no whole number above zero"),
        (["--beta", "1"], "burgers1d has no beta"),
        (["--out", "."], "is a folder"),
        (["--out", "/proc/nowhere/u.hdf5"], "/proc"),
    ],
)
def test_data_that_cannot_be_generated_is_refused(here, refusal, flags, expected):
    message = refusal("data", "generate", "burgers1d", "--n", "1", "--out", "u.hdf5", *flags)

    assert expected in message
    assert listing(here) == []


def test_there_is_nothing_to_report_of_a_run_that_is_not_there(here, refusal):
    assert "holds no run; name the folder of a run" in refusal("report", "--run-dir", "nowhere")
    assert listing(here) == []


@pytest.mark.usefixtures("run_dir")
def test_a_run_is_not_uploaded_without_a_key(refusal, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    assert "without a key: put it into WANDB_API_KEY" in refusal("sync")


def test_an_evaluation_needs_something_to_evaluate(here, refusal):
    assert "--operator FILE" in refusal("evaluate", "--config", SMOKE)


def test_a_data_file_on_another_grid_is_named(here, refusal):
    write_trajectories(here / "u.hdf5", np.random.default_rng(0).random((24, 11, 32)))

    assert "data.points=64" in refusal("train", *use_file("u.hdf5"))


def test_a_file_where_the_run_directory_should_be_is_refused(here, refusal):
    (here / "run").write_text("in the way", encoding="utf-8")

    assert "is a file where the run needs a folder" in refusal("train", "--config", SMOKE, "--run-dir", "run")


@pytest.fixture
def finished(here, finished_run):
    shutil.copytree(finished_run, here, dirs_exist_ok=True)
    return here


def content(directory):
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_completed_stages_are_neither_overwritten_nor_reused_without_being_asked(finished, refusal):
    before = content(finished)

    message = refusal("train", "--config", SMOKE)

    assert "--auto-resume" in message
    assert "--force-train" in message
    assert content(finished) == before


def test_a_checkpoint_of_another_latent_dim_is_an_architecture_mismatch(finished, refusal):
    before = content(finished)

    message = refusal("train", "--config", SMOKE, "--auto-resume", "--set", "latent.dim=8")

    assert "Architecture mismatch: latent_dim=4 vs latent_dim=8" in message
    assert content(finished) == before


def test_evaluating_a_checkpoint_of_another_latent_dim_is_an_architecture_mismatch(finished, refusal):
    message = refusal(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt", "--config", SMOKE, "--set", "latent.dim=8"),
    )

    assert "Architecture mismatch: latent_dim=4 vs latent_dim=8" in message


def test_a_file_that_is_no_checkpoint_is_refused(finished, refusal):
    (finished / "notes.pt").write_text("not weights", encoding="utf-8")

    message = refusal("evaluate", "--operator", "notes.pt", "--config", SMOKE)

    assert "notes.pt: is no checkpoint" in message


def test_a_checkpoint_of_another_stage_is_refused(finished, refusal):
    message = refusal(
        *("evaluate", "--operator", "checkpoints/operator_ema.pt", "--config", SMOKE),
        *("--diffusion", "checkpoints/consistency_distill_ema.pt"),
    )

    assert "is a checkpoint of stage consistency_distill, not of diff_residual" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], "invalid JSON"),
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 7'), "schema_version is 7"),
        (lambda text: text.replace('"operator": {', '"oprator": {'), "unknown stage 'oprator'; valid: operator"),
        (lambda text: text.replace('"completed"', '"complete"', 1), "valid: not_started, in_progress"),
    ],
)
def test_a_status_file_that_is_not_valid_is_named_and_left_untouched(finished, refusal, change, expected):
    path = finished / "checkpoints" / "stage_status.json"
    path.write_text(change(path.read_text("utf-8")), encoding="utf-8")
    before = path.read_bytes()

    message = refusal("train", "--config", SMOKE, "--auto-resume")

    assert expected in message
    assert "stage_status.json:" in message
    assert path.read_bytes() == before


def test_checkpoints_from_before_stage_tracking_are_not_overwritten(finished, refusal):
    (finished / "checkpoints" / "stage_status.json").unlink()

    message = refusal("train", "--config", SMOKE, "--auto-resume")

    assert "Stage status file not found" in message
    assert "--force-train" in message


def test_an_interrupted_stage_does_not_go_on_under_other_settings(finished, refusal):
    path = finished / "checkpoints" / "stage_status.json"
    status = json.loads(path.read_text("utf-8"))
    status["stages"]["operator"] |= {"status": "in_progress", "config_hash": "0" * 16}
    path.write_text(json.dumps(status), encoding="utf-8")
    resume = finished / "checkpoints" / "resume" / "operator.pt"
    resume.parent.mkdir()
    shutil.copy(finished / "checkpoints" / "operator.pt", resume)

    message = refusal("train", "--config", SMOKE, "--auto-resume")

    assert "interrupted under other settings" in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--problem", "ks1d"], "is constant in row 1"),
        (["--problem", "burgers1d"], "holds ks1d, not burgers1d"),
        (["--problem", "kz1d"], "no problem is called 'kz1d'; did you mean ks1d?"),
        (["--problem", "ks1d", "--parameter", "g=1"], "--parameter: ks1d has no parameter g"),
        (["--parameter", "nu=1"], "name it with --problem"),
    ],
)
def test_a_file_that_cannot_be_trained_on_is_told_why(here, ups, words, expected):
    with h5py.File("a.h5", "w") as file:
        file["u"] = np.random.default_rng(0).standard_normal((3, 4, 1, 64), np.float32)
        file["u"][1] = 0.0
        file["t"], file["x"] = np.arange(4.0), np.arange(64.0)
        file.attrs["problem"], file.attrs["nu"] = "ks1d", 1.0

    done = ups("data", "info", "a.h5", *words)

    assert done.returncode == 2
    assert expected in done.stderr
