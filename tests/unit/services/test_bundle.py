"""What a rented machine gets with a network of the user's: the code beside the config that names it."""

import hashlib

import pytest
import yaml

from flows import ROOT
from tasks.services.rental.bundle import build_job
from tasks.services.rental.code import Code
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.own_code import own_code

pytestmark = pytest.mark.usefixtures("_afresh")


@pytest.fixture
def _afresh():
    own_code.cache_clear()
    yield
    own_code.cache_clear()


@pytest.fixture
def small_project(tmp_path):
    """A project that is packed in a moment."""
    root = tmp_path / "project"
    (root / "pack").mkdir(parents=True)
    (root / "pack" / "__init__.py").write_text("")
    (root / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "pack"\nversion = "1"\n'
    )
    return Code(root, "0")


def test_code_of_the_users_travels_beside_the_config_and_is_in_its_sums(tmp_path, small_project):
    nets = tmp_path / "nets"
    nets.mkdir()
    (nets / "net.py").write_text("from kit import width\n\n\nclass Net:\n    size = width.SIZE\n")
    (nets / "kit").mkdir()
    (nets / "kit" / "__init__.py").write_text("")
    (nets / "kit" / "width.py").write_text("SIZE = 3\n")
    smoke = ROOT / "configs" / "smoke.yaml"
    cfg = load_config(smoke, [f"operator.network={nets / 'net.py'}:Net"], schema=PipelineConfig)
    before = cfg.operator.network

    build_job(tmp_path / "job", small_project, cfg, {}, [])

    sent = yaml.safe_load((tmp_path / "job" / "config.yaml").read_text())
    assert sent["operator"]["network"] == "net.py:Net"
    assert (tmp_path / "job" / "kit" / "width.py").read_text() == "SIZE = 3\n"
    sums = dict(reversed(line.split()) for line in (tmp_path / "job" / "SHA256SUMS").read_text().splitlines())
    assert {"net.py", "kit/__init__.py", "kit/width.py", "config.yaml"} <= sums.keys()
    assert sums["net.py"] == hashlib.sha256((nets / "net.py").read_bytes()).hexdigest()
    assert before == f"{nets / 'net.py'}:Net"
