"""Data files of this machine put into W&B, from where a rented machine fetches them."""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.services.data.digests import digest_in
from tasks.services.run.paths import RunDir
from tasks.services.tracking.run_path import path_of, tracking_mode
from tasks.services.tracking.wandb_client import CLIENT, Client, open_session
from ups_models.config.data import FILE_NAME, WANDB_ARTIFACT, DownloadConfig
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput
from ups_models.reading import require_regular


def upload(paths: Sequence[Path], name: str, cfg: TrackingConfig, client: Client = CLIENT) -> list[DownloadConfig]:
    """Upload files as the newest version of one artifact; the entries of `data.downloads` that fetch them.

    Raises BadInput for what is no file, or cannot be told from another, and without W&B; TrackingUnavailable,
    UploadFailed.
    """
    if tracking_mode(cfg) != "online":
        raise BadInput("data are uploaded to W&B, and no key is set: put it into WANDB_API_KEY")
    for path in paths:
        if not path.exists():
            raise BadInput(f"{path}: no such file")
        require_regular(path)
        if not re.fullmatch(FILE_NAME, path.name):
            raise BadInput(f"{path}: rename it: letters, digits, dots, dashes and underscores alone make an address")
    if len({path.name for path in paths}) < len(paths):
        raise BadInput("two files have one name, and would get one address: rename one of them")
    digests = {path.name: digest_in(path).sha256 for path in paths}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "files"
        folder.mkdir()
        for path in paths:
            (folder / path.name).symlink_to(path.resolve())
        where = path_of(None, cfg)
        session = open_session(
            replace(where, id=f"data-{where.id}"),
            exists=False,
            config={"uploaded": digests},
            run=RunDir.of(Path(scratch) / "run", Path("checkpoints")),
            cfg=cfg,
            client=client,
        )
        try:
            full = session.upload(folder, name, "dataset", ("latest",))
        finally:
            session.finish(0)
    return [DownloadConfig(url=f"{WANDB_ARTIFACT}{full}/{file}", sha256=sha256) for file, sha256 in digests.items()]
