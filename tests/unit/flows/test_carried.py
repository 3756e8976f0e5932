"""A deployment's own config and code: packed where it is deployed, unpacked where a worker runs."""

from pathlib import Path

import pytest

from flows.prefect.carried import carried, unpack
from tasks.services.run.own_files import own_code_of
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import ConfigError

PROBLEM = """
from dataclasses import replace

from ups_models.problems.registry import BURGERS
from beside import NAME  # {{ not a template }}

MINE = replace(BURGERS, name=NAME)
"""


@pytest.fixture
def config(tmp_path):
    """A config that names code in a folder of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "mine.py").write_text(PROBLEM, "utf-8")
    (folder / "beside.py").write_text("NAME = 'mine'\n", "utf-8")
    path = folder / "mine.yaml"
    path.write_text(f"data: {{problem: '{folder / 'mine.py'}:MINE', points: 64}}\nlatent: {{tokens: 32}}\n", "utf-8")
    return path


def test_what_a_deployment_carries_is_the_same_config_elsewhere(config, tmp_path, monkeypatch):
    here, files = load_config(config, schema=PipelineConfig), carried(config)
    known = {one.identity for one in own_code_of(here)}
    for path in config.parent.iterdir():
        path.unlink()
    monkeypatch.chdir(tmp_path)

    [(step, inputs)] = files.pull_step.items()
    for _ in range(2):
        unpack(**inputs)

    assert step == "flows.prefect.carried.unpack"
    assert "{{" not in str(inputs)
    there = load_config(files.config, schema=PipelineConfig)
    assert {one.identity for one in own_code_of(there)} == known
    assert str(config.parent) not in files.config.read_text("utf-8")
    assert there.latent == here.latent


def test_other_content_has_another_folder(config):
    before = carried(config).folder

    config.write_text(config.read_text("utf-8") + "seed: 3\n", "utf-8")

    assert carried(config).folder != before


def test_a_config_that_is_none_is_refused_before_anything_is_deployed(tmp_path):
    (tmp_path / "bad.yaml").write_text("latent: {dimm: 3}\n", "utf-8")

    with pytest.raises(ConfigError, match=r"bad\.yaml.*dimm"):
        carried(Path(tmp_path / "bad.yaml"))
