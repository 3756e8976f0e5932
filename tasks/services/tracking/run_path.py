"""Which W&B run is meant, and whether there is tracking at all: from config, environment, netrc and status."""

import configparser
import logging
import netrc
import re
import secrets
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Self
from urllib.parse import urlparse

from tasks.services.run import environment
from tasks.services.run.status import WandbRecord
from ups_models.config.schema import TrackingConfig
from ups_models.errors import BadInput
from ups_models.reading import Unreadable, read_text, require_regular
from ups_models.wording import shortened, shown, without_password

logger = logging.getLogger(__name__)

DEFAULT_PROJECT, DEFAULT_URL = "ups-pipeline", "https://api.wandb.ai"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KEY, BASE_URL = "WANDB_API_KEY", "WANDB_BASE_URL"


@dataclass(frozen=True)
class RunPath:
    """Names a W&B run; without an entity it is the key's own."""

    id: str
    project: str
    entity: str | None = None

    def __str__(self) -> str:
        return self.qualified(self.id)

    def qualified(self, name: str) -> str:
        """The full name of something in the run's project."""
        return "/".join(part for part in (self.entity, self.project, name) if part)

    @classmethod
    def parse(cls, text: str, cfg: TrackingConfig, given_as: str = "--resume-from-wandb ") -> Self:
        """From `id`, `project/id`, `entity/project/id` or the address of a run's page. Raises BadInput.

        `given_as` is how an error names the place where the text was given.
        """
        try:
            path = urlparse(text).path if text.startswith(("https://", "http://")) else text
        except ValueError:
            path = ""
        parts = path.strip("/").split("/")
        if len(parts) == 4 and parts[2] == "runs":
            del parts[2]
        if not 1 <= len(parts) <= 3 or not RUN_ID.fullmatch(parts[-1]) or not all(map(NAME.fullmatch, parts[:-1])):
            raise BadInput(
                f"{given_as}{shown(text)}: is not a W&B run; write id, project/id or entity/project/id "
                "(letters, digits, dot, dash and underscore, a letter or digit first)"
            )
        project, entity = parts[-2] if len(parts) > 1 else None, parts[0] if len(parts) == 3 else None
        return cls.of(parts[-1], project, entity, cfg)

    @classmethod
    def of(cls, run_id: str, project: str | None, entity: str | None, cfg: TrackingConfig) -> Self:
        """What is not given comes from the config, else from the environment."""
        project = project or cfg.project or environment.get("WANDB_PROJECT", DEFAULT_PROJECT)
        return cls(run_id, project, entity or cfg.entity or environment.get("WANDB_ENTITY") or None)


@dataclass(frozen=True)
class ExistingRun:
    """A run that exists, and what its summary says of the stages: last step, start, and where their rows begin."""

    path: RunPath
    name: str
    url: str
    sent: Mapping[str, float | str]

    def record(self) -> WandbRecord:
        """For the status."""
        return record_of(self.path, name=self.name, url=self.url)


@dataclass(frozen=True)
class Received:
    """What W&B has of a run's rows. Only its history tells: the summary may be ahead of it by a row."""

    summary: Mapping[str, float | str] = field(default_factory=dict)
    rows: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    """By stage, in the order of their arrival: step and global step."""


@dataclass(frozen=True)
class ResumeTarget:
    """Which W&B run training resumes: `path`, and `found` if it exists.

    Without a path it is the run that the status names, or a new one. `source` is another run that checkpoints were
    taken from.
    """

    path: RunPath | None = None
    found: ExistingRun | None = None
    source: str | None = None
    allow_older: bool = False


def path_of(known: WandbRecord | None, cfg: TrackingConfig) -> RunPath:
    """The run that a status names, or a new one, whose id says when it began."""
    if known is None or known.id is None:
        return RunPath.of(f"train-{datetime.now(UTC):%Y%m%d_%H%M%S}-{secrets.token_hex(2)}", None, None, cfg)
    return RunPath.of(known.id, known.project, known.entity, cfg)


def record_of(path: RunPath, **more: str | None) -> WandbRecord:
    """A run, for the status; `more` are name, url and source, where they are known."""
    return WandbRecord(id=path.id, project=path.project, entity=path.entity, **more)


def tracking_mode(cfg: TrackingConfig) -> str:
    """`online`, `offline` or `disabled`: from the config, else the environment, else whether there is a key.

    Raises BadInput for a server to which the key would travel in the clear.
    """
    mode = cfg.mode if cfg.mode != "auto" else environment.get("WANDB_MODE")
    if mode not in ("online", "offline", "disabled"):
        mode = "online" if has_key() else "disabled"
    if mode == "online":
        require_safe_address()
    return mode


def has_key() -> bool:
    """Whether the environment or ~/.netrc holds a W&B key; the key itself is not read."""
    if environment.is_set(KEY):
        return True
    path = environment.path("NETRC", "~/.netrc")
    try:
        require_regular(path)
        hosts = netrc.netrc(str(path))
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    _warn_if_shared(path)
    return hosts.authenticators(urlparse(base_url()).hostname or "") is not None


def base_url() -> str:
    """The address of the W&B server, without a password that may stand in it: WANDB_BASE_URL, or what W&B has kept."""
    return without_password(_address()[1])


def chosen_address() -> dict[str, str]:
    """W&B's own setting for the address; empty where the environment names it, which may hold a password."""
    return {} if environment.is_set(BASE_URL) else {"base_url": base_url()}


def _address() -> tuple[str, str]:
    """Where the address of the W&B server is written, and the address: what W&B itself would use, in its order."""
    if environment.is_set(BASE_URL):
        return BASE_URL, environment.get(BASE_URL)
    for path in (Path("wandb") / "settings", environment.path("WANDB_CONFIG_DIR", "~/.config/wandb") / "settings"):
        if path.exists() and (address := _setting(path, "base_url")):
            return str(path), address
    return BASE_URL, DEFAULT_URL


def _setting(path: Path, name: str) -> str | None:
    """Of a file that `wandb login --host` or `wandb init` wrote; None where it cannot be read, and W&B ignores it."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path))
    except (Unreadable, configparser.Error):
        return None
    return parser.get("default", name, fallback=None)


def require_safe_address() -> None:
    """Raise BadInput for a W&B server on another machine that is not reached over https: the key would be readable."""
    source, address = _address()
    address = without_password(address)
    try:
        parts = urlparse(address)
        host = parts.hostname or ""
    except ValueError:
        parts, host = None, ""
    if parts is None or not host or parts.scheme not in ("http", "https"):
        raise BadInput(f"{source}: {shortened(address)} is no address; write it as https://HOST")
    if parts.scheme == "http" and not is_this_machine(host):
        raise BadInput(
            f"{source}: {shortened(address)} would send your W&B key over the network for anyone to read; use "
            "https://, or a server on this machine"
        )


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine's loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@cache
def _warn_if_shared(path: Path) -> None:
    """Told once."""
    if path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("%s: others on this machine can read the keys in it; run: chmod 600 %s", path, path)
