"""A new config field with a default: interrupted and completed runs, uploads and restores do not notice it."""

import json
import shutil

import pytest
from unit.ups_models.test_fingerprint import later

from flows import ROOT
from tasks.services.checkpoints.sets import take_snapshot, verify_set, write_manifest
from tasks.services.run.paths import RunDir
from tasks.services.stages.deciding import decide
from tasks.services.stages.job import Job, Policy
from tasks.services.stages.snapshot import read_snapshot
from tasks.services.stages.sync import require_its_config
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig


@pytest.fixture
def run(tmp_path, finished_run, smoke, own):
    shutil.copytree(finished_run, tmp_path / "run")
    return own(RunDir.of(tmp_path / "run", smoke.checkpoint.dir))


def plan_in(run, cfg):
    evaluations = {
        name: later(load_config(ROOT / "configs" / f"{name}.yaml", schema=EvalConfig))
        for name in ("small_eval", "full_eval")
    }
    return decide(Job(later(cfg), run, Policy(auto_resume=True), evaluations), read_snapshot(cfg, run))


def test_a_completed_run_stays_completed(run, smoke):
    plan = plan_in(run, smoke)

    assert [(item.action, item.warn) for item in plan.stages] == [("skip", False)] * 4
    assert [item.run for item in plan.evaluations] == [False, False]


def test_an_interrupted_run_resumes(run, smoke):
    raw = json.loads(run.status.read_text("utf-8"))
    raw["stages"]["diff_residual"] |= {"status": "in_progress", "step": 5}
    run.status.write_text(json.dumps(raw), encoding="utf-8")
    run.resume("diff_residual").parent.mkdir(exist_ok=True)
    shutil.copy(run.checkpoint("diffusion_residual.pt"), run.resume("diff_residual"))

    assert plan_in(run, smoke).stages[1].action == "resume"


def test_a_published_set_is_restored_and_a_run_is_uploaded(run, smoke, tmp_path):
    take_snapshot(run, tmp_path / "set")
    write_manifest(tmp_path / "set")

    assert verify_set(tmp_path / "set", later(smoke), "ckpt:v0").status.is_trained()
    require_its_config(later(smoke), run)
