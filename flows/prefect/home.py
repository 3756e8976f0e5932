"""Which Prefect server the user names, and a private home for Prefect where the user's own is not used."""

import fcntl
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.services.run import environment
from ups_models.reading import TEXT_LIMIT, Unreadable, read_text
from ups_models.wording import first_line, without_password

URL, HOME, PROFILE, PROFILES = "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"
PREFIX = "ups-prefect-"
LOCK = ".lock"
FILES = ("HOME", "PROFILE", "DATABASE", "STORAGE_PATH", "MEMO_STORE")
KEYS = ("AUTH_STRING", "API_KEY", "API_SSL", "API_TLS")
"""Parts of the names of Prefect's variables that lead to somebody's files, and that open somebody's server."""


class NoServer(Exception):
    """No Prefect server can record a run, and why."""


@dataclass(frozen=True)
class Named:
    """The server that the user names, if any, and what is wrong with the home of Prefect where it was looked for."""

    url: str | None
    fault: str = ""

    @property
    def shown(self) -> str:
        """The address, without its password."""
        return without_password(self.url or "")


def named_server() -> Named:
    """What the environment or the active profile says; a profile is read for nothing else."""
    try:
        home = environment.path(HOME, "~/.prefect")
        path = environment.path(PROFILES, str(home / "profiles.toml"))
    except RuntimeError:  # no HOME, and the system knows of none
        return Named(environment.get(URL) or None, "there is no home directory")
    url, fault = _in_profiles(path) if _is_there(path) else (None, "")
    if not fault and home.exists() and not home.is_dir():
        fault = f"{home}: is a file where Prefect needs a folder"
    return Named(environment.get(URL) or url, fault)


def _in_profiles(path: Path) -> tuple[str | None, str]:
    """The address in the active profile, and what is wrong with the file."""
    try:
        profiles: dict[str, Any] = tomllib.loads(read_text(path, limit=TEXT_LIMIT))
        active = environment.get(PROFILE) or profiles.get("active")
        url = profiles.get("profiles", {}).get(active, {}).get(URL)
    except Unreadable as error:
        return None, str(error)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        return None, f"{path}: holds no profiles of Prefect ({first_line(error)})"
    return (url, "") if url is None or isinstance(url, str) else (None, f"{path}: {URL} is no text")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a folder that may not be entered
        return False


class PrivateHome:
    """A temporary folder as the home of Prefect, with nothing of the user's in it. Raises OSError where it cannot be.

    It is removed by `remove`; where the process is killed before, by the next one that makes a home.
    """

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        fresh = self.path / "new"
        self.lock = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        fresh.rename(self.path / LOCK)  # whoever finds it finds it locked

    @contextmanager
    def used(self, *, keys: bool) -> Iterator[None]:
        """Let Prefect, here and in children, know this home alone until the block ends, with or without the keys."""
        personal = environment.names("PREFECT_", FILES if keys else FILES + KEYS)
        before = environment.selected(personal)
        environment.drop(*personal)
        environment.put(HOME, str(self.path))
        environment.put(PROFILES, str(self.path / "profiles.toml"))
        try:
            yield
        finally:
            environment.drop(HOME, PROFILES)
            for name, value in before.items():
                environment.put(name, value)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)


def _remove_abandoned() -> None:
    """Delete the homes of processes that were killed: nobody holds their locks."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        try:
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # another user's, or gone by now
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(handle)
