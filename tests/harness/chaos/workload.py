"""What the harness runs: the small pipeline, in the order of the flow but without Prefect, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flows.requests.train import Job, TrainRequest, resolve
from tasks.services.run.paths import owned
from tasks.services.stages.evaluating import evaluate_run, write_report
from tasks.services.stages.execution import run_stage
from tasks.services.stages.plan import plan, plan_evaluation

CONFIG = "configs/smoke.yaml"
STOPPED = 75
REFUSED = 2


@dataclass(frozen=True)
class Workload:
    """A size of the same small pipeline; everything else is configs/smoke.yaml."""

    save_every_steps: int
    epochs: int
    steps_per_epoch: tuple[int, int, int, int]

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
        )

    def request(self, directory: Path) -> TrainRequest:
        """The request for a run in a directory of its own, going on where it was."""
        return TrainRequest(config=Path(CONFIG), set=self.settings, run_dir=directory, auto_resume=True)


LONG = Workload(save_every_steps=5, epochs=4, steps_per_epoch=(25, 20, 15, 15))
"""For random kills: most of its time is training."""
BRIEF = Workload(save_every_steps=2, epochs=1, steps_per_epoch=(4, 4, 4, 4))
"""For crashing at every point: every writer writes, few times."""


def run_plainly(workload: Workload, directory: Path) -> None:
    """The flow's order of work without Prefect: what a kill can reach is the same files."""
    job = resolve(workload.request(directory))
    with owned(job.run):
        for decision in plan(job.cfg, job.run, job.policy):
            run_stage(decision, job.cfg, job.run)
        if evaluate_all(job):
            write_report(job.run)


def evaluate_all(job: Job) -> bool:
    """Run the evaluations that are due; whether the report is older than what it shows."""
    changed = not (job.run.report).exists()
    for name, settings in job.evaluations.items():
        if plan_evaluation(name, settings, job.cfg, job.run, redo=False).run:
            evaluate_run(name, job.cfg, settings, job.run)
            changed = True
    return changed
