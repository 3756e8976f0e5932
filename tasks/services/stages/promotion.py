"""Promotion: an alias is held by one run, and goes to another only where that one is better on the same test rows."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, ValidationError, model_validator

from tasks.services.run.clock import utc_now
from tasks.services.run.status import Record
from tasks.services.run.turns import turn
from tasks.services.stages.runs import RunSummary, evaluated_run, run_of
from ups_models.arrays import read_arrays
from ups_models.config.faults import reason_of
from ups_models.errors import BadInput
from ups_models.evaluation.inputs import ROW_DIGESTS, ROW_ERRORS
from ups_models.evaluation.metrics import bootstrap_ci
from ups_models.files import write_text
from ups_models.reading import Unparsable, parse_json, read_text
from ups_models.wording import plain

ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(r"latest|v\d+")
"""What W&B gives by itself."""


LEAST_ROWS = 8
"""Of a comparison: the interval of fewer has no meaning."""


class Refused(BadInput):
    """A run that does not get the alias."""


class Candidate(Record):
    """A run, and how it does on each of the test rows."""

    run: str
    wandb: str | None = None
    """entity/project/id, where it is tracked."""
    checkpoints: dict[str, str] = Field(default_factory=dict)
    errors: tuple[float, ...]
    rows: tuple[str, ...]

    @model_validator(mode="after")
    def _has_an_error_of_each_row(self) -> Self:
        if len(self.errors) != len(self.rows):
            raise ValueError(f"{self.run} has {len(self.errors)} errors of {len(self.rows)} rows")
        return self

    @property
    def error(self) -> float:
        """Mean over the rows."""
        return sum(self.errors) / len(self.errors)


class Event(Record):
    """One attempt to promote a run, and why it ended as it did."""

    at: str
    alias: str
    run: str
    promoted: bool
    reason: str


class Registry(Record):
    """Who holds which alias, and how it came to that."""

    holders: dict[str, Candidate] = Field(default_factory=dict)
    history: tuple[Event, ...] = Field(())
    displaced: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """W&B runs that may still have an alias there which another run holds by now."""


def promote(root: Path, alias: str, path: Path) -> tuple[Candidate, tuple[str, ...], str]:
    """Give a run an alias in the registry at `path`: the new holder, the W&B runs that must lose it, and the reason.

    Raises Refused where its checks fail or it is not better than the holder on the same rows, which is noted too;
    BadInput for a run that was not evaluated on test rows, and for a registry that cannot be read.
    """
    _require_alias(alias)
    summary = evaluated_run(root)
    candidate = candidate_of(summary)
    with turn(path, "promotion"):
        registry = read_registry(path)
        holder = registry.holders.get(alias)
        promoted, reason = verdict(summary, candidate, holder)
        event = Event(at=utc_now(), alias=alias, run=candidate.run, promoted=promoted, reason=reason)
        changed = registry.model_copy(update={"history": (*registry.history, event)})
        changed = _given(changed, alias, candidate) if promoted else changed
        _write(path, changed)
    if not promoted:
        raise Refused(f"{candidate.run} does not become {alias}: {reason}")
    return candidate, changed.displaced.get(alias, ()), reason


def _given(registry: Registry, alias: str, new: Candidate) -> Registry:
    """The registry once a run has the alias: those before it are to lose theirs in W&B."""
    before = registry.holders.get(alias)
    known = [*registry.displaced.get(alias, ()), *([before.wandb] if before is not None and before.wandb else [])]
    lost = tuple(dict.fromkeys(run for run in known if run != new.wandb))
    holders, displaced = {**registry.holders, alias: new}, {**registry.displaced, alias: lost}
    return registry.model_copy(update={"holders": holders, "displaced": displaced})


def note_taken(path: Path, alias: str, run: str) -> None:
    """Note that a W&B run has lost the alias there."""
    with turn(path, "promotion"):
        registry = read_registry(path)
        left = tuple(one for one in registry.displaced.get(alias, ()) if one != run)
        _write(path, registry.model_copy(update={"displaced": {**registry.displaced, alias: left}}))


def candidate_of(run: RunSummary) -> Candidate:
    """What the full evaluation of a run found, row by row. Raises BadInput."""
    result = run.result
    if result is None or result.split != "test":
        raise BadInput(f"{run.root}: was not evaluated on test rows; run its full_eval first (ups train --auto-resume)")
    try:
        arrays = read_arrays(run_of(run.root).result(result.name, ".npz"))
    except FileNotFoundError:
        arrays = {}
    if ROW_ERRORS not in arrays or ROW_DIGESTS not in arrays:
        raise BadInput(f"{run.root}: its evaluation does not say how each row did; evaluate it again with this version")
    wandb = run.status.wandb
    tracked = wandb is not None and wandb.id is not None and wandb.project is not None and wandb.entity is not None
    return Candidate(
        run=str(run.root.resolve()),
        wandb=f"{wandb.entity}/{wandb.project}/{wandb.id}" if wandb is not None and tracked else None,
        checkpoints={stage: one.sha256 for stage, one in result.checkpoints.items()},
        errors=tuple(arrays[ROW_ERRORS].tolist()),
        rows=tuple(arrays[ROW_DIGESTS].tolist()),
    )


def verdict(run: RunSummary, new: Candidate, holder: Candidate | None) -> tuple[bool, str]:
    """Whether a run gets the alias, and why."""
    checks = run.result.checks if run.result is not None else ()
    missed = [one.name for one in checks if not one.reached]
    if missed or not checks:
        what = f"{len(missed)} of its {len(checks)} checks fail: {', '.join(missed)}" if checks else "nothing judged it"
        return False, what
    if holder is not None and holder.checkpoints == new.checkpoints:
        return True, "it holds it already"
    if holder is None:
        return True, f"all of its {len(checks)} checks pass, and nobody held it"
    if new.rows != holder.rows:
        common = len(set(new.rows) & set(holder.rows))
        return False, (
            f"it and {holder.run}, which holds the alias, were evaluated on other test rows ({common} in common); "
            "evaluate both on the same data"
        )
    if len(new.rows) < LEAST_ROWS:
        return False, f"{len(new.rows)} test rows cannot tell two runs apart; evaluate at least {LEAST_ROWS}"
    return _paired(new, holder)


def _paired(new: Candidate, holder: Candidate) -> tuple[bool, str]:
    """The 95 % bootstrap interval of the mean difference over rows must lie below zero."""
    differences = torch.tensor(new.errors, dtype=torch.float64) - torch.tensor(holder.errors, dtype=torch.float64)
    low, high = bootstrap_ci(differences, seed=0)
    reason = (
        f"error {new.error:.4g} against {holder.error:.4g} of {holder.run} on the same {len(new.rows)} rows, "
        f"difference {differences.mean().item():+.2g} [{low:+.2g}, {high:+.2g}]"
    )
    return high < 0, reason if high < 0 else f"{reason}: that is no improvement beyond chance"


def read_registry(path: Path) -> Registry:
    """The registry; an empty one where there is no file. Raises BadInput."""
    try:
        return Registry.model_validate(parse_json(read_text(path)))
    except FileNotFoundError:
        return Registry()
    except (ValidationError, Unparsable) as error:
        raise BadInput(f"{path}: is no registry: {reason_of(error)}; choose another --registry") from None


def _write(path: Path, registry: Registry) -> None:
    write_text(path, json.dumps(registry.model_dump(mode="json"), indent=1) + "\n")


def _require_alias(alias: str) -> None:
    if not ALIAS.fullmatch(alias) or RESERVED.fullmatch(alias):
        raise BadInput(f"--alias {plain(alias)}: is no alias; letters, digits, dot, dash, not latest or a version")


def lines_of(history: Sequence[Event]) -> list[tuple[str, ...]]:
    """For a table: when, alias, run, whether, why."""
    return [(one.at, one.alias, plain(one.run), "yes" if one.promoted else "no", plain(one.reason)) for one in history]
