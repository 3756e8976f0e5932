"""A W&B in memory: what the client's API and an open run give and take, without a server."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.tracking.wandb_client import Client
from ups_models.config.schema import TrackingConfig


class Artifact:
    """One version of an artifact."""

    def __init__(self, number, files, aliases):
        self.version, self.files, self.aliases = f"v{number}", files, aliases
        self.state, self.deleted = "COMMITTED", False
        self.manifest = SimpleNamespace(entries=files)

    def get_entry(self, name):
        content = self.files[name]

        def download(root, skip_cache):
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            return str(path)

        return SimpleNamespace(download=download)

    def wait(self, timeout):
        return self

    def delete(self):
        self.deleted = True


class File:
    """A file of a run."""

    def __init__(self, name, content):
        self.name, self.content = name, content

    def download(self, root, replace):
        path = Path(root) / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content)


class Run:
    """A run, as the API gives it and as it is when it is open."""

    def __init__(self, wandb, run_id, project, entity):
        self.wandb, self.id, self.project, self.entity = wandb, run_id, project, entity or "researcher"
        self.name, self.url, self.state = run_id, f"https://wandb/{run_id}", "running"
        self.config, self.summary, self.rows, self.kept = {}, {}, [], []
        self.exit_codes, self.preempting, self.metrics = [], False, {}

    @property
    def summary_metrics(self):
        return self.summary

    def define_metric(self, name, **how):
        self.metrics[name] = how

    def log(self, row):
        self.rows.append(row)
        self.summary.update(row)

    def log_artifact(self, artifact, aliases):
        files = {name: Path(entry.local_path).read_bytes() for name, entry in artifact.manifest.entries.items()}
        versions = self.wandb.collections.setdefault(f"{self.entity}/{self.project}/{artifact.name.split(':')[0]}", [])
        for version in versions:
            version.aliases = [alias for alias in version.aliases if alias not in aliases]
        versions.append(Artifact(len(versions), files, list(aliases)))
        versions[-1].state = self.wandb.state_after_upload
        return versions[-1]

    def mark_preempting(self):
        self.preempting = True

    def finish(self, exit_code):
        self.exit_codes.append(exit_code)

    def update(self):
        pass

    def files(self):
        return self.kept

    def scan_history(self, keys, use_cache):
        return [{key: row[key] for key in keys} for row in self.rows if all(key in row for key in keys)]


class FakeWandb(Client):
    """Client, API and server in one. While `down` is set, it is what every call raises."""

    def __init__(self):
        self.runs, self.collections, self.opened = {}, {}, []
        self.down = None
        self.state_after_upload = "COMMITTED"

    def add(self, run_id, project="ups-pipeline", entity="researcher"):
        self.runs[f"{entity}/{project}/{run_id}"] = run = Run(self, run_id, project, entity)
        return run

    def add_artifact(self, collection, files):
        self.collections[collection] = [Artifact(0, files, ["latest"])]

    def add_files(self, path, *names):
        self.runs[str(path)].kept = [File(name, b"x") for name in names]

    def sets_of(self, run_id):
        return self.collections.get(f"researcher/ups-pipeline/ckpt-{run_id}", [])

    def init(self, settings, **run):
        self._answer()
        assert not [name for name, value in settings.items() if name.startswith("disable") and not value]
        opened = self.run(f"{run['entity']}/{run['project']}/{run['id']}") if run["resume"] == "must" else None
        opened = opened or self.add(run["id"], run["project"], run["entity"] or "researcher")
        opened.config |= run["config"]
        self.opened.append(run)
        return opened

    def api(self, cfg):
        self._answer()
        return self

    def run(self, path):
        full = path if path.count("/") == 2 else f"researcher/{path}"
        if full not in self.runs:
            raise ValueError(f"Could not find run <Run {full} (not found)>")
        return self.runs[full]

    def artifact(self, name, type=None):  # noqa: A002 - W&B's own word
        collection, _, alias = name.partition(":")
        for version in self.collections.get(collection, []):
            if alias in (version.version, *version.aliases) and not version.deleted:
                return version
        raise ValueError(f"artifact membership {alias!r} not found in {collection!r}")

    def artifacts(self, kind, collection):
        return [version for version in reversed(self.collections[collection]) if not version.deleted]

    def _answer(self):
        if self.down is not None:
            raise self.down


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> FakeWandb:
    """An empty W&B, and an environment that says nothing about a real one."""
    home = tmp_path_factory.mktemp("wandb")
    for name in ("MODE", "API_KEY", "PROJECT", "ENTITY", "BASE_URL"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home))
    for name in ("SILENT", "ERROR_REPORTING"):
        monkeypatch.setenv(f"WANDB_{name}", "true")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    monkeypatch.delenv("UPS_GENERATION", raising=False)
    return FakeWandb()


@pytest.fixture
def online(smoke):
    """The smoke config, tracked."""
    tracking = TrackingConfig(mode="online", entity="researcher", keep_versions=1)
    return smoke.model_copy(update={"tracking": tracking})


@pytest.fixture
def run(tmp_path, finished_run, smoke, own) -> OwnedRun:
    """A copy of a finished run, owned."""
    shutil.copytree(finished_run, tmp_path / "run")
    return own(RunDir.of(tmp_path / "run", smoke.checkpoint.dir))
