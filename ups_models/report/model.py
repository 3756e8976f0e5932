"""What a report shows, and what it is made of: sections of tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ups_models.evaluation.result import EvaluationResult

Array = NDArray[Any]
Arrays = Mapping[str, Array]
History = Mapping[str, Sequence[Mapping[str, float]]]


@dataclass(frozen=True)
class Timing:
    """How long a stage or an evaluation took, as far as that is known."""

    stage: str
    status: str
    seconds: float | None = None
    steps: int | None = None


@dataclass(frozen=True)
class ReportInput:
    """All that a report shows: evaluations, arrays to draw, and where they come from."""

    title: str
    small: EvaluationResult | None
    full: EvaluationResult | None
    arrays: Arrays
    history: History
    config_yaml: str
    timings: Sequence[Timing]

    @property
    def evaluations(self) -> tuple[EvaluationResult, ...]:
        """Those that there are, the one to read first before the other."""
        return tuple(result for result in (self.full, self.small) if result is not None)

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the numbers that are read first were computed."""
        return self.evaluations[0].environment if self.evaluations else {}


@dataclass(frozen=True)
class Table:
    """Cells of text; `best` marks (row, column) of the best value in its row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One heading of the report; `missing` says in words what was not evaluated."""

    key: str
    title: str
    intro: str = ""
    tables: tuple[Table, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """One sentence on the checks; `state` is pass, fail or unknown."""

    state: str
    text: str
