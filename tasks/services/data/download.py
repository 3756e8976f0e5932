"""Data files from the network: fetched once, resumed where they stopped, and checked before they count."""

import logging
from functools import partial as partial_of
from pathlib import Path

import httpx

from tasks.services.data.digests import digest_in, md5_in
from tasks.services.run.phase import announce
from tasks.services.run.progress import progress_of
from tasks.services.run.retry import retrying
from tasks.services.run.uninterrupted import leave_if_stopped, pause_unless_stopped
from tasks.services.tracking.protocols import TrackingUnavailable
from tasks.services.tracking.store import download_artifact_file
from ups_models.config.data import WANDB_ARTIFACT, DownloadConfig
from ups_models.config.schema import TrackingConfig
from ups_models.errors import DataError, StorageError, UPSError
from ups_models.reading import remedy
from ups_models.wording import plain, without_password

logger = logging.getLogger(__name__)

RETRY_AFTER_S = (1.0, 5.0, 15.0, 60.0)
PARTIAL_SUFFIX = ".part"
TIMEOUT_S = 60


class Unreachable(UPSError):
    """The network or its server does not answer: nothing is wrong with the config, and another try may succeed."""


def fetch(
    download: DownloadConfig,
    folder: Path,
    tracking: TrackingConfig,
    *,
    retry_after_s: tuple[float, ...] = RETRY_AFTER_S,
) -> Path:
    """The file in `folder`, downloaded if it is not there or is not what the config names.

    Raises DataError when it is not what the config names, Unreachable when the network does not answer. What has
    arrived from the web is kept in `<name>.part` across interruptions; a file of a W&B artifact is fetched whole.
    """
    path, url = folder / download.name, without_password(download.url)
    if path.is_file():
        difference = _difference(path, download)
        if difference is None:
            return path
        logger.warning("%s: %s: it is fetched again", path, difference)
    announce("downloading")
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    if partial.is_symlink():
        raise DataError(f"{partial}: is a link, and nothing is downloaded through one; remove it")
    pause = partial_of(pause_unless_stopped, what=f"fetch {download.name}")
    retrying(retry_after_s, Unreachable, pause=pause)(_bring, download, partial, tracking)
    difference = _difference(partial, download, keep=False)
    if difference is not None:
        partial.unlink()
        raise DataError(f"{url}: {difference}; correct one of them")
    partial.replace(path)
    return path


def _difference(path: Path, download: DownloadConfig, *, keep: bool = True) -> str | None:
    """The first digest of a file that is not what the config names, in words; `keep` it beside the file."""
    if download.sha256 not in (None, found := digest_in(path, keep=keep).sha256):
        return f"has sha256 {found}, but the config names {download.sha256}"
    if download.md5 is not None and (found := md5_in(path, keep=keep)) != download.md5:
        return f"has md5 {found}, but the config names {download.md5}"
    return None


def _bring(download: DownloadConfig, partial: Path, tracking: TrackingConfig) -> None:
    """One try. Raises Unreachable where another may succeed, DataError where none would."""
    url = without_password(download.url)
    try:
        if download.url.startswith(WANDB_ARTIFACT):
            download_artifact_file(download.url.removeprefix(WANDB_ARTIFACT), partial, tracking)
        else:
            _resume(download, partial)
    except (httpx.HTTPError, TrackingUnavailable) as error:
        if isinstance(error, httpx.HTTPStatusError) and httpx.codes.is_client_error(error.response.status_code):
            raise DataError(f"{url}: cannot be fetched ({plain(error)}); check the address") from error
        raise Unreachable(f"{url}: cannot be fetched now ({plain(error)}); the same command resumes it") from error
    except OSError as error:
        raise StorageError(
            f"{partial}: cannot be written ({error.strerror}); {remedy(error) or 'check its file system'}"
        ) from error


def _resume(download: DownloadConfig, partial: Path) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", download.url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it has arrived
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0  # the server sends it whole
        total = have + int(answer.headers.get("Content-Length", 0))
        with partial.open("ab" if have else "wb") as file, progress_of(f"fetch {download.name}", total, have) as update:
            for chunk in answer.iter_bytes():  # as they come: what has come is written
                leave_if_stopped(f"fetch {download.name}")
                file.write(chunk)
                have += len(chunk)
                update(have, "bytes")
