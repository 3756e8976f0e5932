"""The blank database of a temporary server: Prefect's migrations run once on a machine, and their outcome is copied.

They take as long as all the rest of the server's start. See docs/adr/0003.
"""

import logging
import os
import shutil
import stat
import tempfile
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from tasks.services.run import environment
from ups_models.files import digest_of
from ups_models.reading import Unreadable

if TYPE_CHECKING:
    from fastapi import FastAPI

logger = logging.getLogger(__name__)

DATABASE = "prefect.db"
"""Its name in a home of Prefect."""


def copy_blank(home: Path) -> None:
    """Give a new home the blank database of an earlier one, where there is one, whole and of this Prefect."""
    try:
        for path in _folder().glob(f"{version('prefect')}-*.db"):
            if path.stem.endswith(f"-{digest_of(path).sha256}"):
                shutil.copyfile(path, home / DATABASE)
                return
            path.unlink()
    except (OSError, Unreadable) as error:
        logger.debug("no blank database is copied: %s", error)


def create_app() -> "FastAPI":
    """Prefect's API, as `uvicorn --factory` wants it; a home without a database gets one, which is kept as blank."""
    from prefect.server.api.server import create_app as create_prefect_app

    database = environment.path("PREFECT_HOME", "") / DATABASE
    if not database.exists():
        thread = Thread(target=_migrate_and_keep, args=[database])  # uvicorn's loop runs in this one
        thread.start()
        thread.join()
    return create_prefect_app()


def _migrate_and_keep(database: Path) -> None:
    import asyncio
    import sqlite3

    from prefect.server.database import provide_database_interface

    asyncio.run(provide_database_interface().create_db())
    try:
        _keep(database, _folder())
    except (OSError, Unreadable, sqlite3.Error) as error:
        logger.debug("the blank database is not kept: %s", error)


def _keep(database: Path, folder: Path) -> None:
    import sqlite3

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        copy = Path(scratch) / DATABASE
        source, target = sqlite3.connect(database), sqlite3.connect(copy)
        with source, target:
            source.backup(target)
        source.close()
        target.close()
        copy.rename(folder / f"{version('prefect')}-{digest_of(copy).sha256}.db")


def _folder() -> Path:
    """Where blank databases are kept: a temporary folder that nobody else can write. Raises OSError."""
    path = Path(tempfile.gettempdir()) / f"ups-blank-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{path}: is not this user's alone")
    return path
