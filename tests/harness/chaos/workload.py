"""What the harness runs: a small pipeline on the DAG that users run, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.dag import run_job
from flows.requests.job import parse
from flows.requests.train import TrainRequest

CONFIG = "configs/smoke.yaml"
STOPPED = 75
REFUSED = 2


@dataclass(frozen=True)
class Workload:
    """A size of the same small pipeline; everything else is configs/smoke.yaml."""

    save_every_steps: int
    epochs: int
    steps_per_epoch: tuple[int, int, int, int]
    more: tuple[str, ...] = ()
    """Further overrides."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Overrides, as the command line takes them."""
        stages = ("operator", "diff_residual", "consistency_distill", "steady_prior")
        return (
            f"checkpoint.save_every_steps={self.save_every_steps}",
            *(f"stages.{stage}.epochs={self.epochs}" for stage in stages),
            *(
                f"stages.{stage}.steps_per_epoch={steps}"
                for stage, steps in zip(stages, self.steps_per_epoch, strict=True)
            ),
            *self.more,
        )

    def request(self, directory: Path) -> TrainRequest:
        """The request for a run in a directory of its own, going on where it was."""
        return TrainRequest(config=Path(CONFIG), set=self.settings, run_dir=directory, auto_resume=True)


LONG = Workload(save_every_steps=5, epochs=4, steps_per_epoch=(25, 20, 15, 15))
"""For random kills: most of its time is training."""
BRIEF = Workload(save_every_steps=2, epochs=1, steps_per_epoch=(4, 4, 4, 4))
"""For crashing at every point: every writer writes, few times."""


def run_plainly(workload: Workload, directory: Path) -> None:
    """The DAG that users run, in this process and without Prefect."""
    run_job(parse(workload.request(directory)))
