"""A deployment of a config of one's own: it carries the config, and the code that the config names, to its workers."""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.services.run.own_files import code_files, with_code_in
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import BadInput
from ups_models.files import write_text
from ups_models.reading import parse_json, read_text

FOLDER, CONFIG = Path(".ups") / "deployed", "config.yaml"
"""Where a worker puts what its deployment carries, below the folder in which it was started."""
DIGITS = 16
LIMIT = 1_000_000
"""Bytes of a deployment's parameters that no server or database minds."""


@dataclass(frozen=True)
class Carried:
    """Files for a worker, and the folder that is named after their content."""

    files: Mapping[str, str]
    folder: Path

    @property
    def config(self) -> Path:
        """The config, as the worker names it."""
        return self.folder / CONFIG

    @property
    def pull_step(self) -> dict[str, Any]:
        """What Prefect does on the worker before it imports the flow.

        The files are packed: Prefect would fill in what stands between double braces in a text.
        """
        packed = base64.b64encode(zlib.compress(json.dumps(self.files, sort_keys=True).encode())).decode("ascii")
        if len(packed) > LIMIT:
            raise BadInput(f"the code of this config has {len(packed)} bytes, packed; a deployment carries {LIMIT}")
        return {f"{__name__}.{unpack.__name__}": {"folder": self.folder.as_posix(), "packed": packed}}


def carried(path: Path) -> Carried:
    """The config at `path` and the code that it names. Raises ConfigError, BadInput."""
    cfg = load_config(path, schema=PipelineConfig)
    code = code_files(cfg)
    digest = hashlib.sha256(json.dumps([read_text(path), code], sort_keys=True).encode()).hexdigest()
    folder = FOLDER / digest[:DIGITS]
    resolved = yaml.safe_dump(with_code_in(cfg, folder), sort_keys=False)
    return Carried({**code, CONFIG: resolved}, folder)


def unpack(folder: str, packed: str) -> None:
    """Put the files of a deployment where its config is looked for; what is there already is left alone."""
    files: dict[str, str] = parse_json(zlib.decompress(base64.b64decode(packed)))
    for name, text in files.items():
        path = Path(folder) / name
        if not path.is_file() or read_text(path) != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
