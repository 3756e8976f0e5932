"""`python -m harness.gpu.victim FOLDER DEVICE STEPS`: a training that says that it has begun, and its sha256."""

import os
import sys
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from harness.bench.scale import SMALL, prepared, sha_of
from ups_models.stages.lineage import Lineage
from ups_models.stages.registry import STAGES
from ups_models.training.conditions import make_repeatable
from ups_models.training.loop import Hooks, fit

EVERY_STEPS = 20


def main() -> None:
    """Train, resumed where the last start was killed."""
    folder, device, n_steps = Path(sys.argv[1]), torch.device(sys.argv[2]), int(sys.argv[3])
    if device.type == "cuda":
        make_repeatable(tf32=False)
    settings = {
        **SMALL,
        "checkpoint": {"save_every_steps": EVERY_STEPS},
        "stages": {"operator": {"epochs": 1, "steps_per_epoch": n_steps, "unroll": [1], "batch_size": 16}},
    }
    cfg, data, _, _ = prepared(settings, "operator", 1)
    stage, begun = STAGES["operator"], list[bool]()

    def on_step(_progress: object) -> None:
        if not begun:
            begun.append(True)
            print("begun", flush=True)

    folder.mkdir(parents=True, exist_ok=True)
    state = fit(
        stage,
        cfg,
        data,
        {},
        device=device,
        resume_path=folder / "operator.pt",
        lineage=Lineage.of(stage.spec, cfg, {}),
        hooks=Hooks(on_step=on_step),
    )
    print(sha_of(state), flush=True)


if __name__ == "__main__":
    main()
