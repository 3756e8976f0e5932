"""From a request to a job, and what is refused before anything is started."""

from pathlib import Path

import pytest

from flows import ROOT
from flows.requests.job import find_config, parse, plan_of, require_feasible
from flows.requests.train import TrainRequest
from tasks.services.run.paths import RunDir
from ups_models.errors import BadInput, ConfigError, DataError

SMOKE = Path("configs/smoke.yaml")


def request(**fields):
    return TrainRequest.model_validate({"config": SMOKE, **fields})


@pytest.fixture
def online(monkeypatch):
    """A W&B account."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "key")


def test_a_job_is_made_without_a_look_at_the_run(here):
    (here / "checkpoints").write_text("in the way", encoding="utf-8")

    job = parse(request())

    assert job.run == RunDir(Path(), Path("checkpoints"))
    assert list(job.evaluations) == ["small_eval", "full_eval"]
    assert (job.policy.stage, job.policy.auto_resume, job.policy.force_train) == ("all", False, False)
    assert job.source is None


def test_what_is_asked_for_is_in_the_job():
    overrides = ("latent.dim=8", "checkpoint.dir=weights")

    job = parse(request(set=overrides, device="cpu", run_dir="/runs/a", redo_full_eval=True, force_train=True))

    assert (job.cfg.latent.dim, job.cfg.runtime.device) == (8, "cpu")
    assert job.run.checkpoints == Path("/runs/a/weights")
    assert job.redo == {"full_eval"}
    assert job.policy.force_train


@pytest.mark.parametrize(
    ("fields", "evaluations"),
    [
        ({"skip_small_eval": True}, ["full_eval"]),
        ({"skip_small_eval": True, "skip_full_eval": True}, []),
        ({"stage": "operator"}, []),
    ],
)
def test_an_evaluation_that_is_left_out_needs_no_config(fields, evaluations):
    unread = {f"{name}_config": "nowhere.yaml" for name in ("small_eval", "full_eval") if name not in evaluations}

    assert list(parse(request(**fields, **unread)).evaluations) == evaluations


def test_an_evaluation_that_is_asked_for_needs_its_config():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        parse(request(small_eval_config="nowhere.yaml"))


def test_the_config_of_the_working_directory_comes_before_the_one_that_we_ship(here):
    shipped = find_config(SMOKE)
    (here / "configs").mkdir()
    (here / SMOKE).write_text("seed: 3", encoding="utf-8")

    assert shipped == ROOT / SMOKE
    assert parse(request()).cfg.seed == 3
    assert find_config(Path("smoke")) == find_config(Path("smoke.yaml")) == shipped
    assert find_config(Path("nowhere.yaml")) == Path("nowhere.yaml")


@pytest.mark.usefixtures("online")
def test_a_run_to_restore_is_named_and_resumed():
    job = parse(request(resume_from_wandb="me/project/r1", resume_mode="must", force=True))

    assert job.source is not None
    assert str(job.source.path) == "me/project/r1"
    assert (job.source.mode, job.source.force) == ("must", True)
    assert job.policy.auto_resume


@pytest.mark.parametrize(
    ("key", "said"),
    [("", "no key is set: put it into WANDB_API_KEY"), ("key", "tracking.mode or WANDB_MODE says not")],
)
def test_a_run_to_restore_needs_a_way_to_ask_for_it(monkeypatch, tmp_path, key, said):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_API_KEY", key)

    with pytest.raises(BadInput, match=f"--resume-from-wandb needs W&B online, but {said}"):
        parse(request(resume_from_wandb="r1"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"force": True}, "--force says how to restore; name the run with --resume-from-wandb"),
        ({"resume_mode": "must"}, "--resume-mode says how to restore"),
    ],
)
def test_how_to_restore_is_said_only_of_a_run(fields, said):
    with pytest.raises(ValueError, match=said):
        request(**fields)


def test_a_plan_is_made_without_owning_the_run_and_writes_nothing(here):
    plan = plan_of(parse(request()))

    assert [decision.action for decision in plan.stages] == ["train"] * 4
    assert list(here.iterdir()) == []


def test_what_a_living_process_works_on_is_refused(run_dir, own):
    job = parse(request(auto_resume=True))
    require_feasible(job)
    own(job.run)

    with pytest.raises(BadInput, match="is working on this run; wait for it or stop it"):
        require_feasible(job)


def test_files_that_are_named_are_read_before_a_server_is_started(here):
    with pytest.raises(DataError, match=r"gone\.hdf5: no such file"):
        require_feasible(parse(request(set=("data.files=[gone.hdf5]",))))

    assert list(here.iterdir()) == []


def test_files_that_no_stage_needs_need_not_be_there(run_dir):
    require_feasible(parse(request(auto_resume=True)))
    for path in (run_dir / "data").iterdir():
        path.unlink()

    require_feasible(parse(request(auto_resume=True)))


@pytest.mark.usefixtures("online")
def test_before_a_restore_every_stage_may_come_to_need_its_files(run_dir):
    with pytest.raises(DataError, match=r"gone\.hdf5: no such file"):
        require_feasible(parse(request(resume_from_wandb="r1", set=("data.files=[gone.hdf5]",))))
