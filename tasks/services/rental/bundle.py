"""What a rented machine gets: the code as a wheel, the resolved configs, and the script that starts it."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from tasks.services.rental.code import Code
from tasks.services.run import environment
from tasks.services.run.own_files import with_code_in, write_code
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import UPSError
from ups_models.files import digest_of

ONSTART = Path(__file__).with_name("onstart.sh")
MAX_ONSTART_CHARS = 4000
CONFIG, SUMS, ARGUMENTS = "config.yaml", "SHA256SUMS", "arguments"


def build_job(
    folder: Path, code: Code, cfg: PipelineConfig, evaluations: dict[str, EvalConfig], arguments: Sequence[str]
) -> str:
    """Fill `folder` with everything that the machine needs; returns what identifies it.

    The wheel is built from the code as it is, uncommitted changes included, so what runs is what was launched.
    """
    folder.mkdir(parents=True)
    _build_wheel(folder, code.root)
    _write_yaml(folder / CONFIG, with_code_in(cfg, Path()))
    write_code(cfg, folder)
    lines = ["--config", CONFIG, *arguments]
    for name in ("small_eval", "full_eval"):
        if name in evaluations:
            _write_yaml(folder / f"{name}.yaml", evaluations[name].model_dump(mode="json"))
            lines += [f"--{name.replace('_', '-')}-config", f"{name}.yaml"]
        else:
            lines += [f"--skip-{name.replace('_', '-')}"]
    (folder / ARGUMENTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if (code.root / "constraints.txt").is_file():
        shutil.copyfile(code.root / "constraints.txt", folder / "constraints.txt")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sums = [f"{digest_of(path).sha256}  {path.relative_to(folder)}\n" for path in files]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return digest_of(folder / SUMS).sha256


def onstart() -> str:
    """The script as it is sent: without its comments, and short enough for every limit that is documented."""
    lines = ONSTART.read_text("utf-8").splitlines()
    text = "\n".join(line for number, line in enumerate(lines) if not number or not line.lstrip().startswith("#"))
    if len(text) >= MAX_ONSTART_CHARS:
        raise UPSError(f"{ONSTART}: has {len(text)} characters, and {MAX_ONSTART_CHARS} are too many")
    return text + "\n"


def _build_wheel(folder: Path, root: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder.resolve())]
    variables = environment.child(SOURCE_DATE_EPOCH="1580601600")  # equal files make an equal wheel
    done = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UPSError(f"{root}: the code could not be packed: {done.stderr.strip().splitlines()[-1:]}")


def _write_yaml(path: Path, content: object) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
