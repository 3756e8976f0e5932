"""Which providers there are: our own, and those that an installed package brings along."""

import subprocess
import sys

import pytest

from flows import ROOT
from tasks.services.rental.provider import MachineSpec
from tasks.services.rental.providers import registry
from tasks.services.rental.providers.local import LocalProvider
from ups_models.errors import BadInput

PLUGIN = '''
"""A provider of somebody else."""


class Cluster:
    supports_bids = False

    def __init__(self, run_dir):
        self.run_dir = run_dir
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package with this entry point, as pip would leave it."""

    def put(name, value):
        folder = tmp_path / "site"
        info = folder / "ups_cluster-1.dist-info"
        info.mkdir(parents=True)
        (folder / "ups_cluster.py").write_text(PLUGIN, encoding="utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ups-cluster\nVersion: 1\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ups.providers]\n{name} = {value}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "ups_cluster", raising=False)

    return put


def test_ours_are_known_and_made_for_a_run(tmp_path):
    provider = registry.provider_for("local", tmp_path)

    assert registry.names()[:4] == ("vast", "runpod", "ssh", "local")
    assert isinstance(provider, LocalProvider)
    assert provider.root == tmp_path / "instances"
    assert not provider.supports_bids


def test_an_unknown_name_is_refused_with_all_that_are_known(tmp_path):
    with pytest.raises(BadInput, match=r"--provider aws: no such provider; choose one of vast, runpod, ssh, local"):
        registry.provider_for("aws", tmp_path)


def test_a_package_brings_its_own_provider(install, tmp_path):
    install("cluster", "ups_cluster:Cluster")

    provider = registry.provider_for("cluster", tmp_path)

    assert "cluster" in registry.names()
    assert type(provider).__module__ == "ups_cluster"
    assert vars(provider)["run_dir"] == tmp_path


def test_a_package_does_not_take_the_place_of_ours(install, tmp_path):
    install("local", "ups_cluster:Cluster")

    assert isinstance(registry.provider_for("local", tmp_path), LocalProvider)


@pytest.mark.parametrize("value", ["no_such_module:Cluster", "ups_cluster:NoSuchClass"])
def test_a_provider_that_cannot_be_imported_is_bad_input(install, tmp_path, value):
    install("cluster", value)

    with pytest.raises(BadInput, match=f"--provider cluster: {value} cannot be imported"):
        registry.provider_for("cluster", tmp_path)


def test_this_machine_offers_itself(tmp_path):
    offers = LocalProvider(tmp_path).search(MachineSpec())

    assert [(offer.gpu, offer.usd_per_hour) for offer in offers] == [("RTX_4090", 0.0)]


def test_a_log_that_is_cut_begins_with_a_whole_line(tmp_path):
    folder = tmp_path / "1"
    folder.mkdir()
    lines = [f"line {number}" for number in range(2000)]
    (folder / "log").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    read = LocalProvider(tmp_path).logs("1").splitlines()

    assert 100 < len(read) < len(lines)
    assert read == lines[-len(read) :]


def test_training_here_imports_nothing_that_rents():
    probe = "import sys, flows.pipeline, flows.requests.train; print(*sys.modules, sep='\\n')"

    loaded = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, check=True, text=True)

    rents = ("tasks.services.rental", "flows.remote", "flows.requests.launch", "vastai")
    assert [name for name in loaded.stdout.split() if name.startswith(rents)] == []
