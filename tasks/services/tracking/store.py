"""Files in W&B: the sets of checkpoints of a run, and artifacts of other kinds."""

import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.checkpoints.sets import NAMES
from tasks.services.checkpoints.uploads import UploadFailed
from tasks.services.run.paths import STATUS
from tasks.services.run.status import Status, parse_status
from tasks.services.tracking.coordination import WandbCoordination
from tasks.services.tracking.protocols import CheckpointStore, TrackingUnavailable
from tasks.services.tracking.run_path import RunPath, base_url
from tasks.services.tracking.wandb_client import CLIENT, Client, Session, reason, unavailable
from ups_models.config.schema import TrackingConfig
from ups_models.errors import DataError
from ups_models.reading import read_text
from ups_models.wording import shown

logger = logging.getLogger(__name__)

ABSENT = ("not found in", "does not contain artifact", "could not find artifact")  # W&B has no class for this error


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
    def newest(self) -> str:
        """The full name of the newest set."""
        return self.path.qualified(f"{self.name}:latest")

    def publish(self, folder: Path, aliases: tuple[str, ...]) -> str:
        """As the newest version of the run's collection; old versions without an alias are deleted."""
        if self.session is None:
            raise UploadFailed(f"run {self.path} is not open for writing")
        WandbCoordination(self.path, self.cfg, self.client).check_fence()
        name = self.session.upload(folder, self.name, "model", ("latest", *aliases))
        try:
            self._delete_old_sets()
        except TrackingUnavailable as error:
            logger.warning("%s", error)
        return name.rpartition(":")[2]

    def status(self) -> Status | None:
        """Only the status is downloaded."""
        failing = unavailable(f"the newest set of {self.path} could not be read")
        with tempfile.TemporaryDirectory() as folder, failing:
            artifact = self._newest_set()
            if artifact is None:
                return None
            text = read_text(
                Path(artifact.get_entry(STATUS).download(root=folder, skip_cache=True)), follow_links=False
            )
        return parse_status(text, Path(self.newest) / STATUS)

    def download_set(self, folder: Path) -> str | None:
        """Only names that a set may hold are fetched, whatever the server lists."""
        with unavailable(f"{self.newest} could not be downloaded", "; try again"):
            artifact = self._newest_set()
            if artifact is None:
                return None
            for name in artifact.manifest.entries:
                if name in NAMES:
                    artifact.get_entry(name).download(root=str(folder), skip_cache=True)
                else:
                    logger.warning("%s: %s does not belong in a set and was not downloaded", self.newest, shown(name))
            return f"{self.name}:{artifact.version}"

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

    def _newest_set(self) -> Any:
        """None where W&B says that there is none: an answer that says nothing is an error."""
        try:
            return self.client.api(self.cfg).artifact(self.newest, type="model")
        except Exception as error:
            if _is_absent(error):
                return None
            raise

    def _delete_old_sets(self) -> None:
        with unavailable("W&B: old sets of checkpoints could not be deleted"):
            newest_first = self.client.api(self.cfg).artifacts("model", self.path.qualified(self.name))
            for number, artifact in enumerate(newest_first, start=1):
                if number > self.cfg.keep_versions and not artifact.aliases:
                    artifact.delete()


def publish_job(session: Session, folder: Path) -> str:
    """Put what a rented machine needs into the run; the artifact's name. Raises UploadFailed."""
    return session.upload(folder, f"job-{session.path.id}", "training-job", ("latest",))


def download_artifact_file(address: str, path: Path, cfg: TrackingConfig, client: Client = CLIENT) -> None:
    """Download `entity/project/name:version/file` to `path`. Raises TrackingUnavailable, DataError where it is not."""
    name, _, file = address.rpartition("/")
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            Path(client.api(cfg).artifact(name).get_entry(file).download(root=folder, skip_cache=True)).replace(path)
        except Exception as error:
            if isinstance(error, KeyError) or _is_absent(error):
                raise DataError(f"{address}: is not in W&B at {base_url()}; check the address") from error
            raise TrackingUnavailable(f"{address} could not be downloaded ({reason(error)})") from error


def _is_absent(error: Exception) -> bool:
    return any(words in str(error).lower() for words in ABSENT)
