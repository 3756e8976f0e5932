"""What the docs show of Python and YAML is used here as it stands; tests/e2e/test_docs.py types their commands."""

import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from flows import ROOT
from flows.requests.sweep import trials_of
from tasks.services.run.paths import RunDir
from tasks.services.tracking.protocols import MetricLogger
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.own_code import own_code
from ups_models.surrogate import Prediction, load_surrogate

RNG = np.random.default_rng(0)
PLACES = {
    "python": ["architecture.md", "data.md", "extension.md", "extension.md", "use.md", "wandb.md"],
    "yaml": ["data.md", "sweeps.md"],
}
"""The pages of all blocks below."""


def blocks(language, page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_block(text, **names):
    exec(compile(text, "a page of the docs", "exec"), names)  # noqa: S102 - ours
    return SimpleNamespace(**names)


@pytest.mark.parametrize("language", PLACES)
def test_every_block_of_the_docs_is_used_below(language):
    pages = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

    found = [page.name for page in pages for _ in blocks(language, page)]

    assert found == PLACES[language]


def test_the_config_of_another_equation_is_one(here):
    (here / "config.yaml").write_text(blocks("yaml", "data.md")[0], "utf-8")

    cfg = load_config(here / "config.yaml", schema=PipelineConfig)

    assert cfg.data.family == "gray_scott2d"


def test_the_sweep_has_a_run_for_every_point_and_seed(here):
    (here / "sweep.yaml").write_text(blocks("yaml", "sweeps.md")[0], "utf-8")

    assert len(trials_of(here / "sweep.yaml", here / "runs", (0, 1, 2))) == 12


def test_a_script_of_ones_own_trains_a_run(here):
    report = run_block(blocks("python", "architecture.md")[0]).report

    assert (here / report).is_file()


def test_arrays_written_as_shown_are_known_and_train(here, ups, train):
    run_block(blocks("python", "data.md")[0])

    known = ups("data", "info", "mine.h5", "--problem", "ks1d")
    train(set=("data.problem=ks1d", "data.files=[mine.h5]"), stage="operator")

    assert known.stdout.startswith("mine.h5: ks1d, 64 samples, nu 1")
    assert known.stdout.endswith("can be trained on as ks1d\n")
    assert load_surrogate(here).trained_on["dt"] == 1.0


def test_a_layout_and_a_network_written_as_shown_train(here, ups, train):
    layout, network = blocks("python", "extension.md")
    (here / "my_layout.py").write_text(layout, "utf-8")
    (here / "my_net.py").write_text(network, "utf-8")
    np.save(here / "mine.npy", RNG.standard_normal((64, 11, 1, 64)).astype(np.float32))
    own_code.cache_clear()
    data = ("data.problem=burgers1d", "data.files=[mine.npy]", "data.layout=my_layout.py:read")

    known = ups("data", "info", "mine.npy", "--layout", "my_layout.py:read", "--problem", "burgers1d")
    train(set=(*data, "operator.network=my_net.py:Net", "latent.dim=8"), stage="operator")

    assert known.stdout.endswith("can be trained on as burgers1d\n"), known.stderr
    assert load_surrogate(here).step(np.zeros((1, 64))).shape == (1, 64)


def test_a_surrogate_used_as_shown_forecasts(here, finished_run):
    shutil.copytree(finished_run, here / "runs" / "a")

    found = run_block(blocks("python", "use.md")[0], u0=np.sin(np.linspace(0, 2 * np.pi, 64, endpoint=False))).found

    assert isinstance(found, Prediction)
    assert found.u.shape == (8, 41, 1, 64)


def test_a_logger_written_as_shown_hands_on_what_it_gets(here, monkeypatch):
    calls = []
    names = ("start_run", "log_metrics", "end_run")
    heard = {name: lambda *given, name=name, **more: calls.append((name, *given, *more.values())) for name in names}
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**heard))

    logger = run_block(blocks("python", "wandb.md")[0]).MlflowLogger(PipelineConfig(), RunDir.of(here, here))
    logger.row("operator", {"loss": 0.5})
    logger.close(failed=False)

    assert isinstance(logger, MetricLogger)
    assert calls == [("start_run", here.name), ("log_metrics", {"operator/loss": 0.5}), ("end_run", "FINISHED")]
