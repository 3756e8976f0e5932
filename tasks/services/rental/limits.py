"""What one training on rented machines may cost, and how long anything is waited for."""

from dataclasses import dataclass

from tasks.services.run.phase import Phase
from ups_models.errors import UPSError


class BudgetSpent(UPSError):
    """A limit that was given is reached; what is trained is safe in W&B."""


STEPS_OF_PATIENCE = 10
"""A training may be silent for so many times the longest time from step to step that was seen."""


@dataclass(frozen=True)
class Limits:
    """The limits of one launch; the defaults are those of `ups launch`."""

    max_usd: float = 20.0
    max_hours: float = 24.0
    max_machines: int = 50
    max_errors: int = 3
    boot_timeout_s: float = 1200.0
    install_timeout_s: float = 1800.0
    download_timeout_s: float = 7200.0
    data_timeout_s: float = 6 * 3600.0
    evaluation_timeout_s: float = 7200.0
    stall_min_s: float = 120.0
    stall_max_s: float = 600.0
    silence_timeout_s: float = 3600.0
    gone_after_s: float = 240.0
    lost_after_s: float = 120.0
    refused_after_s: float = 300.0
    poll_s: float = 10.0
    backoff_s: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row before this one."""
        return self.backoff_s[min(failures, len(self.backoff_s) - 1)]

    def silence(self, phase: Phase | None, step_s: float | None) -> float:
        """Seconds without a sign of life after which a machine in this phase is given up.

        Args:
            phase: What the machine's log announced last; None where it announced nothing.
            step_s: The longest time from one step to the next that was seen of this training.
        """
        if phase == "training" and step_s is not None:
            return min(self.stall_max_s, max(self.stall_min_s, STEPS_OF_PATIENCE * step_s))
        by_phase = {
            "installing": self.install_timeout_s,
            "downloading": self.download_timeout_s,
            "data": self.data_timeout_s,
            "training": self.stall_max_s,
            "evaluation": self.evaluation_timeout_s,
        }
        return by_phase[phase] if phase is not None else self.silence_timeout_s

    def require_budget(self, run: str, *, usd: float, hours: float, machines: int = 0) -> None:
        """Raise BudgetSpent where a limit is reached; `machines`: rented so far, given only before another order."""
        for is_reached, what in (
            (usd >= self.max_usd, f"--max-total-cost of {self.max_usd:g} USD ({usd:.2f} spent)"),
            (hours >= self.max_hours, f"--max-hours of {self.max_hours:g}"),
            (machines >= self.max_machines, f"the limit of {self.max_machines} machines"),
        ):
            if is_reached:
                raise BudgetSpent(
                    f"{what}: reached; all machines are given back, and W&B holds the last upload. "
                    f"Launch again with --resume-from-wandb {run} and a higher limit"
                )
