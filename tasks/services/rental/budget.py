"""A budget that several launches share, in all and a day: a file of limits, and beside it what was spent."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from tasks.services.rental.limits import BudgetSpent
from tasks.services.run import jsonl
from tasks.services.run.clock import utc_now
from ups_models.config.loading import load_config
from ups_models.config.section import Section
from ups_models.errors import BadInput

NOTE_EVERY_USD = 0.01
"""A launch that runs notes its cost in such pieces, and the rest at its end."""


class BudgetLimits(Section):
    """What the file may hold."""

    usd: float | None = Field(None, gt=0)
    usd_per_day: float | None = Field(None, gt=0)


@dataclass(frozen=True)
class Budget:
    """The budget of one file, as one launch spends from it.

    Attributes:
        launch: Names the launch among all that share the file.
    """

    path: Path
    limits: BudgetLimits
    launch: str

    @classmethod
    def of(cls, path: Path, launch: str) -> "Budget":
        """Read the file. Raises BadInput, ConfigError."""
        if not path.is_file():
            what = "is no file" if path.exists() else "there is no such file"
            raise BadInput(f"--budget-file {path}: {what}; write `usd: 50` or `usd_per_day: 10` into one")
        limits = load_config(path, schema=BudgetLimits)
        if limits.usd is None and limits.usd_per_day is None:
            raise BadInput(f"{path}: holds no limit; write `usd: 50` or `usd_per_day: 10` into it")
        return cls(path, limits, launch)

    @property
    def ledger(self) -> Path:
        """Where every launch notes what it has spent."""
        return self.path.with_name(f"{self.path.name}.spent.jsonl")

    def settle(self, spent_usd: float, *, at_end: bool = False) -> None:
        """Note what the launch has spent since it last did, of so much in all."""
        more = spent_usd - self._sum(of_launch=True)
        if more >= NOTE_EVERY_USD or (at_end and more > 0):
            entry = {"launch": self.launch, "usd": more, "at": utc_now()}
            jsonl.append(self.ledger, entry, flush=True)

    def require(self, spent_usd: float = 0.0, *, rents: bool = True) -> None:
        """Raise BudgetSpent where a limit is reached by all launches together; this one has spent so much in all.

        Of one that rents nothing yet, it is not said that its machines are given back.
        """
        for limit, spent, what in self._spent(spent_usd):
            if spent >= limit:
                raise BudgetSpent(
                    f"{self.path}: its {limit:g} USD {what} are spent ({spent:.2f} USD, see {self.ledger})"
                    + ("; all machines are given back, and W&B holds the last upload" if rents else "")
                    + ". Launch again with a higher limit"
                    + ("" if limit == self.limits.usd else ", or tomorrow")
                )

    def require_start(self, start_usd: float) -> None:
        """Raise BadInput where less is left than the start of one machine costs."""
        left = min(limit - spent for limit, spent, _ in self._spent(0.0))
        if left < start_usd:
            raise BadInput(
                f"{self.path}: {max(0.0, left):.3f} USD of it are left, and the start of one machine alone costs "
                f"{start_usd:.3f} USD; write a higher limit into it"
            )

    def _spent(self, spent_usd: float) -> list[tuple[float, float, str]]:
        """Each limit, what all launches have spent of it, and in what time."""
        unnoted = max(0.0, spent_usd - self._sum(of_launch=True))
        today = f"{datetime.now(UTC):%Y-%m-%d}"
        found = (
            (self.limits.usd, self._sum() + unnoted, "in all"),
            (self.limits.usd_per_day, self._sum(day=today) + unnoted, f"on {today} (UTC)"),
        )
        return [(limit, spent, what) for limit, spent, what in found if limit is not None]

    def _sum(self, *, of_launch: bool = False, day: str = "") -> float:
        entries = jsonl.read(self.ledger, optional=False)
        return sum(
            self._usd(entry)
            for entry in entries
            if (not of_launch or entry.get("launch") == self.launch) and str(entry.get("at", "")).startswith(day)
        )

    def _usd(self, entry: Mapping[str, Any]) -> float:
        try:
            return float(entry["usd"])
        except (KeyError, TypeError, ValueError):
            raise BadInput(f"{self.ledger}: a line holds no usd; correct it, or remove the line") from None
