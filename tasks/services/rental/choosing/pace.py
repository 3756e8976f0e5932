"""How fast a training goes on a GPU: as it was measured, or else as the memory bandwidth of GPUs lets expect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.services.rental.gpus import bandwidth, gpu_key
from tasks.services.rental.health import Position

STEPS_PER_S_AT_1_TB_PER_S = 20.0
"""Stated, not measured: what is taken before anything of a training was."""


@dataclass(frozen=True)
class Pace:
    """Steps a second by GPU, as machines of this training, and of others, reached them."""

    of_run: Mapping[str, float] = field(default_factory=dict)
    of_others: Mapping[str, float] = field(default_factory=dict)

    def steps_per_s(self, gpu: str) -> float:
        """Measured on this GPU; else from the nearest measured one, by the bandwidth of both; else as stated."""
        for measured in (self.of_run, self.of_others):
            if gpu_key(gpu) in measured:
                return measured[gpu_key(gpu)]
            if measured:
                own = bandwidth(gpu)
                near = min(measured, key=lambda one: abs(bandwidth(one) - own))
                return measured[near] * own / bandwidth(near)
        return STEPS_PER_S_AT_1_TB_PER_S * bandwidth(gpu) / 1000.0

    def source(self, gpu: str) -> str:
        """On what the figure rests, in words."""
        for measured, whose in ((self.of_run, "this training"), (self.of_others, "other trainings")):
            if measured:
                how = "measured" if gpu_key(gpu) in measured else "estimated from machines"
                return f"{how} in {whose}"
        return "a guess before the first measurement"


@dataclass(frozen=True)
class Work:
    """The steps of a training, stage by stage."""

    stages: tuple[tuple[str, int], ...]

    @property
    def total(self) -> int:
        """Of all stages."""
        return sum(steps for _, steps in self.stages)

    def left(self, stage: str, step: int) -> int:
        """Steps from here to the end; all of them where the stage is none of these."""
        names = [name for name, _ in self.stages]
        if stage not in names:
            return self.total
        here = names.index(stage)
        return max(0, sum(steps for _, steps in self.stages[here:]) - step)


@dataclass
class PaceMeter:
    """Measures one machine by what its run says, from the first change on."""

    work: Work
    began: Position
    """Where the run was before the machine."""
    first: tuple[Position, float] | None = None
    last: tuple[Position, float] | None = None

    def see(self, position: Position, now: float) -> None:
        """After one more look, at so many seconds since 1970."""
        if self.first is None and position != self.began:
            self.first = position, now
        if self.first is not None and (self.last is None or position != self.last[0]):
            self.last = position, now

    def measured(self) -> tuple[int, float]:
        """Steps, and the seconds that they took; zeros before there were any."""
        if self.first is None or self.last is None:
            return 0, 0.0
        steps = self.work.left(*self.first[0]) - self.work.left(*self.last[0])
        return max(0, steps), self.last[1] - self.first[1]


def mean_pace(measured: Sequence[tuple[str, int, float]]) -> dict[str, float]:
    """Steps a second by GPU, of (gpu, steps, seconds)."""
    steps: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for gpu, count, took_s in measured:
        if count > 0 and took_s > 0:
            steps[gpu_key(gpu)] = steps.get(gpu_key(gpu), 0.0) + count
            seconds[gpu_key(gpu)] = seconds.get(gpu_key(gpu), 0.0) + took_s
    return {gpu: steps[gpu] / seconds[gpu] for gpu in steps}
