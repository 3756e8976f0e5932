"""The files of tests/data/first_edition, made with the code of the first edition.

    PYTHONPATH=tests .venv/bin/python -m harness.bench.first_edition

They are committed, and stay as they are: what today's code must still load, resume and restore. In half_way/ lies the
run of tests/data/first_edition.yaml, interrupted in diff_residual; in published_set/ the set of checkpoints that W&B
would hold of the same run, interrupted in consistency_distill; in tensors.json what every tensor of both is. A machine
is named in them as the owner of the run; that name is replaced.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from harness.bench.comparison import leaves
from harness.bench.revisions import FIRST_EDITION, ROOT, checked_out
from harness.bench.same_bits import Tree

CONFIG = ROOT / "tests" / "data" / "first_edition.yaml"
FOLDER = CONFIG.with_suffix("")
HALF_WAY, PUBLISHED, TENSORS = FOLDER / "half_way", FOLDER / "published_set", FOLDER / "tensors.json"
MACHINE = "first-edition-machine"
PUBLISH = """
import sys
from pathlib import Path
from tasks.services.checkpoint_sets import seal, take_snapshot
from tasks.services.run_dir import RunDir
run, folder = map(Path, sys.argv[1:])
take_snapshot(RunDir.of(run, Path("checkpoints")), folder)
seal(folder)
"""


def described(value: Tensor) -> str:
    """A tensor's type, shape, and the sha256 of its bytes."""
    content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype} {list(value.shape)} {hashlib.sha256(content).hexdigest()}"


def tensors_of(path: Path) -> dict[str, str]:
    """Every tensor of a .pt, by its name in it."""
    payload = torch.load(path, map_location="cpu", weights_only=True)
    return {name: described(value) for name, value in leaves(payload) if isinstance(value, Tensor)}


def hide_machine(run: Path) -> None:
    """Name another owner of the run in its status and its lock."""
    status, lock = run / "checkpoints" / "stage_status.json", run / "checkpoints" / ".owner"
    content, owner = json.loads(status.read_text("utf-8")), json.loads(lock.read_text("utf-8"))
    for record in (owner, *(stage["owner"] for stage in content["stages"].values() if "owner" in stage)):
        record["host"] = MACHINE
    status.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    lock.write_text(json.dumps(owner), "utf-8")


def main() -> None:
    """Make them anew, in place of those that lie there."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="first-edition-") as name:
        folder = Path(name).resolve()
        tree = Tree("first edition", checked_out(FIRST_EDITION, folder / "code"), str(CONFIG))
        for stage in ("diff_residual", "consistency_distill"):
            tree.half_way(folder / stage, stage)
            hide_machine(folder / stage)
        shutil.copytree(folder / "diff_residual", HALF_WAY)
        publish = [sys.executable, "-c", PUBLISH, str(folder / "consistency_distill"), str(PUBLISHED)]
        subprocess.run(publish, cwd=tree.root, check=True)
    found = {path.relative_to(FOLDER).as_posix(): tensors_of(path) for path in sorted(FOLDER.rglob("*.pt"))}
    TENSORS.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
