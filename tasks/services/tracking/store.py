"""Files in W&B: the sets of checkpoints of a run, and artifacts of other kinds."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.checkpoints import report_sets
from tasks.services.checkpoints.sets import NAMES
from tasks.services.checkpoints.uploads import UploadFailed
from tasks.services.run.paths import STATUS, RunDir
from tasks.services.run.status import Status, parse_status
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import CheckpointStore, TrackingUnavailable
from tasks.services.tracking.run_path import RunPath, base_url
from tasks.services.tracking.wandb_client import CLIENT, Client, Session, reason, unavailable
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput, DataError
from ups_models.reading import read_text
from ups_models.wording import shortened, shown

logger = logging.getLogger(__name__)

ABSENT = ("not found in", "does not contain artifact", "could not find artifact")  # W&B has no class for this error
REPORT_KIND = "evaluation-report"


@dataclass(frozen=True)
class WandbStore(CheckpointStore):
    """The sets of checkpoints of one W&B run; publishing needs the run open."""

    path: RunPath
    cfg: TrackingConfig
    client: Client = CLIENT
    session: Session | None = None

    @property
    def name(self) -> str:
        """The collection that holds them."""
        return f"ckpt-{self.path.id}"

    @property
    def report_name(self) -> str:
        """The collection that holds the evaluations and the report."""
        return f"report-{self.path.id}"

    @property
    def newest(self) -> str:
        """The full name of the newest set."""
        return self.path.qualified(f"{self.name}:latest")

    def publish(self, folder: Path, aliases: tuple[str, ...]) -> str:
        """As the newest version of the run's collection; old versions without an alias are deleted."""
        if self.session is None:
            raise UploadFailed(f"run {self.path} is not open for writing")
        WandbCoordination(self.path, self.cfg, self.client).check_fence()
        name = self.session.upload(folder, self.name, "model", ("latest", *aliases))
        self._delete_old("model", self.name, self.cfg.keep_versions)
        return name.rpartition(":")[2]

    def publish_report(self, run: RunDir) -> None:
        """Upload evaluations and report; a set that W&B has is not sent again. Raises UploadFailed, FencedOut."""
        if self.session is None:
            raise UploadFailed(f"run {self.path} is not open for writing")
        WandbCoordination(self.path, self.cfg, self.client).check_fence()
        folder = run.staging / "report"
        shutil.rmtree(folder, ignore_errors=True)
        report_sets.take_report(run, folder)
        self.session.upload(folder, self.report_name, REPORT_KIND, ("latest",), within_s=self.cfg.finish_timeout_s)
        self._delete_old(REPORT_KIND, self.report_name, 1)
        shutil.rmtree(folder, ignore_errors=True)

    def status(self) -> Status | None:
        """Only the status is downloaded."""
        failing = unavailable(f"the newest set of {self.path} could not be read")
        with tempfile.TemporaryDirectory() as folder, failing:
            artifact = self._newest(self.name, "model")
            if artifact is None:
                return None
            text = read_text(
                Path(artifact.get_entry(STATUS).download(root=folder, skip_cache=True)), follow_links=False
            )
        return parse_status(text, Path(self.newest) / STATUS)

    def download_set(self, folder: Path) -> str | None:
        """Only names that a set may hold are fetched, whatever the server lists."""
        return self._download(self.name, "model", NAMES, folder)

    def download_report(self, folder: Path) -> str | None:
        """Download the evaluations and the report; the name of their set, or None where there is none."""
        return self._download(self.report_name, REPORT_KIND, report_sets.NAMES, folder)

    def download_files(self, folder: Path) -> list[str]:
        """They lie in the run's own checkpoints/."""
        found = []
        with unavailable(f"the files of run {self.path} could not be downloaded"):
            for file in self.client.api(self.cfg).run(str(self.path)).files():
                name = file.name.removeprefix("checkpoints/")
                if name in NAMES and name != file.name:
                    file.download(root=str(folder / "files"), replace=True)
                    (folder / "files" / file.name).replace(folder / name)
                    found.append(name)
            shutil.rmtree(folder / "files", ignore_errors=True)
        return found

    def give_alias(self, alias: str) -> str:
        """Give the newest set an alias; its name. Raises TrackingUnavailable, BadInput where the run has no set."""
        with unavailable(f"{self.newest} could not be given the alias {alias}"):
            artifact = self._newest(self.name, "model")
            if artifact is not None and alias not in artifact.aliases:
                artifact.aliases = [*artifact.aliases, alias]
                artifact.save()
        if artifact is None:
            raise BadInput(f"{self.path}: has no set of checkpoints in W&B; upload it first: ups sync")
        return self.path.qualified(f"{self.name}:{artifact.version}")

    def take_alias(self, alias: str) -> None:
        """Take an alias from whatever set of the run has it. Raises TrackingUnavailable."""
        with unavailable(f"{self.path.qualified(self.name)} could not lose the alias {alias}"):
            for artifact in self.client.api(self.cfg).artifacts("model", self.path.qualified(self.name)):
                if alias in artifact.aliases:
                    artifact.aliases = [one for one in artifact.aliases if one != alias]
                    artifact.save()

    def _download(self, collection: str, kind: str, names: frozenset[str], folder: Path) -> str | None:
        newest = self.path.qualified(f"{collection}:latest")
        with unavailable(f"{newest} could not be downloaded", "; try again"):
            artifact = self._newest(collection, kind)
            if artifact is None:
                return None
            for name in artifact.manifest.entries:
                if name in names:
                    artifact.get_entry(name).download(root=str(folder), skip_cache=True)
                else:
                    logger.warning("%s: %s does not belong in a set and was not downloaded", newest, shown(name))
            return f"{collection}:{artifact.version}"

    def _newest(self, collection: str, kind: str) -> Any:
        """None where W&B says that there is none: an answer that says nothing is an error."""
        try:
            return self.client.api(self.cfg).artifact(self.path.qualified(f"{collection}:latest"), type=kind)
        except Exception as error:
            if _is_absent(error):
                return None
            raise

    def _delete_old(self, kind: str, collection: str, keep: int) -> None:
        """Delete versions without an alias but the newest ones; it may fail, and is a warning then."""
        try:
            with unavailable(f"W&B: old versions of {collection} could not be deleted"):
                newest_first = self.client.api(self.cfg).artifacts(kind, self.path.qualified(collection))
                for number, artifact in enumerate(newest_first, start=1):
                    if number > keep and not artifact.aliases:
                        artifact.delete()
        except TrackingUnavailable as error:
            logger.warning("%s", error)


def publish_job(session: Session, folder: Path) -> str:
    """Put what a rented machine needs into the run; the artifact's name. Raises UploadFailed."""
    return session.upload(folder, f"job-{session.path.id}", "training-job", ("latest",))


def download_artifact_file(address: str, path: Path, cfg: TrackingConfig, client: Client = CLIENT) -> None:
    """Download `entity/project/name:version/file` to `path`. Raises TrackingUnavailable, DataError where it is not."""
    name, _, file = address.rpartition("/")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            artifact = client.api(cfg).artifact(name)
            if file not in artifact.manifest.entries:
                held = shortened(", ".join(sorted(artifact.manifest.entries)))
                raise DataError(f"{address}: {name} holds no {file} (it holds {held}); check the address")
            Path(artifact.get_entry(file).download(root=folder, skip_cache=True)).replace(path)
        except DataError:
            raise
        except Exception as error:
            if _is_absent(error):
                raise DataError(f"{address}: is not in W&B at {base_url()}; check the address") from error
            raise TrackingUnavailable(f"{address} could not be downloaded ({reason(error)})") from error


def _is_absent(error: Exception) -> bool:
    return any(words in str(error).lower() for words in ABSENT)
