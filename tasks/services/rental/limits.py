"""What one training on rented machines may cost, and how long anything is waited for."""

from dataclasses import dataclass

from ups_models.errors import UPSError


class BudgetSpent(UPSError):
    """A limit that was given is reached; what is trained is safe in W&B."""


@dataclass(frozen=True)
class Limits:
    """The limits of one launch; the defaults are those of `ups launch`."""

    max_usd: float = 20.0
    max_hours: float = 24.0
    max_machines: int = 50
    max_errors: int = 3
    boot_timeout_s: float = 1200.0
    stalled_after_s: float = 3600.0
    lost_after_s: float = 120.0
    poll_s: float = 10.0
    backoff_s: tuple[float, ...] = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)

    def backoff(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row before this one."""
        return self.backoff_s[min(failures, len(self.backoff_s) - 1)]

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
