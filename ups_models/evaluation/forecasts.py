"""What an evaluation asks of trained networks, a few rows at a time: any number of processes, the same digits."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.fields import SteadyFields
from ups_models.errors import BadInput
from ups_models.evaluation.inputs import EvalData, Models, OperatorCase, evenly_spaced
from ups_models.evaluation.rollout import in_batches, one_step_members, rollout, rollout_members
from ups_models.evaluation.samplers import residual_samplers
from ups_models.nn.prior import Prior
from ups_models.nn.sampling import Draw, noise, sample_flow

PIECES, PIECE_ROWS = 16, 8
"""Rows are forecast in so many pieces at most, of so many rows at least. A piece draws the noise of all rows."""

Rows = tuple[int, int]
"""From the first to before the last."""
Kind = Literal["one_step", "rollout", "pairs", "ensemble", "steady"]


@dataclass(frozen=True)
class Question:
    """Forecasts of one kind for all rows: the operator's of every pair or whole rollouts, or a sampler's members."""

    kind: Kind
    sampler: str = ""


Answer = Callable[[Question, Rows], Tensor]
"""Forecasts for some rows."""
Ask = Callable[[Answer, Question, Sequence[Rows]], Iterable[Tensor]]
"""The answers for each piece, in order: those that this process would give, or others' that are the same."""


@dataclass(frozen=True)
class Slice:
    """The random numbers of some rows of every member: what a generator gives all rows, without the others'."""

    rng: torch.Generator
    members: int
    total: int
    rows: Rows

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """(M * rows, ...) of the numbers that (M * total, ...) rows get."""
        drawn = noise((self.members * self.total, *shape[1:]), self.rng)
        found: Tensor = drawn.unflatten(0, (self.members, self.total))[:, slice(*self.rows)].flatten(0, 1)
        return found


class Forecasts:
    """What trained networks say of the data that they are evaluated on."""

    def __init__(
        self, cfg: PipelineConfig, settings: EvalConfig, models: Models, data: EvalData, device: torch.device
    ) -> None:
        self.settings, self.models, self.device, self.seed = settings, models, device, settings.seed
        self.samplers = residual_samplers(cfg.denoiser, settings, models)
        self.case = case_of(cfg, settings, models, data, device)
        self.steady = data.steady and data.steady.select(evenly_spaced(settings.steady_samples, len(data.steady.a)))
        self.flow_steps = None if cfg.stages.steady_prior.objective == "crps" else cfg.prior.sampler_steps

    def all(self, question: Question, ask: Ask | None = None) -> Tensor:
        """The answer for all rows: fields (N, ...), or members (M, N, ...); computed here, or by whom `ask` asks."""
        parts, axis = pieces(self._rows(question.kind)), 0 if question.kind in ("one_step", "rollout") else 1
        whole: Tensor | None = None
        for (start, stop), found in zip(parts, (ask or alone)(self.answer, question, parts), strict=True):
            if whole is None:
                shape = list(found.shape)
                shape[axis] = parts[-1][1]
                whole = found.new_empty(shape)
            whole.narrow(axis, start, stop - start).copy_(found)
        if whole is None:
            raise ValueError("there are no rows")
        return whole.to(self.device)

    @torch.no_grad()
    def answer(self, question: Question, rows: Rows) -> Tensor:
        """Forecasts for some rows."""
        match question.kind:
            case "one_step":
                return self._one_step(rows)
            case "rollout":
                return self._rollouts(rows)
            case "pairs":
                return self._pair_members(question.sampler, rows)
            case "ensemble":
                return self._ensembles(question.sampler, rows)
            case "steady":
                return self._steady_members(rows)

    @cached_property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Evenly spread u_t and u_{t+1} (B, C, *space) with what is known of them (B, P + 1)."""
        u, known = self._operator.u, self._operator.parameters
        total = u.shape[0] * (u.shape[1] - 1)
        which = torch.linspace(0, total - 1, min(self.settings.one_step_pairs, total)).long().to(u.device)
        trajectory, time = which // (u.shape[1] - 1), which % (u.shape[1] - 1)
        return u[trajectory, time], u[trajectory, time + 1], known[trajectory]

    @cached_property
    def ensemble_rows(self) -> Tensor:
        """Which trajectories have ensembles of rollouts."""
        return evenly_spaced(self.settings.ensemble_trajectories, len(self._operator.u)).to(self.device)

    @property
    def _operator(self) -> OperatorCase:
        if self.case is None:
            raise ValueError("there is no operator, or there are no trajectories")
        return self.case

    def _rows(self, kind: Kind) -> int:
        if kind == "steady":
            return len(self._prior()[1].a)
        if kind == "pairs":
            return len(self.pairs[0])
        return len(self.ensemble_rows) if kind == "ensemble" else len(self._operator.u)

    def _draw(self, members: int, kind: Kind, rows: Rows) -> Slice:
        rng = torch.Generator(self.device).manual_seed(self.seed)
        return Slice(rng, members, self._rows(kind), rows)

    def _one_step(self, rows: Rows) -> Tensor:
        """u_{t+1} forecast from every u_t, (n, T, C, *space)."""
        case = self._operator
        now = case.u[slice(*rows), :-1]
        known = case.parameters[slice(*rows)].repeat_interleave(now.shape[1], 0)
        forecast: Tensor = in_batches(self._step, now.flatten(0, 1), known).unflatten(0, now.shape[:2])
        return forecast

    def _step(self, u: Tensor, parameters: Tensor) -> Tensor:
        """One step ahead."""
        return rollout(self._operator.operator, u, parameters, steps=1, reencode_every=0)[:, 0]

    def _rollouts(self, rows: Rows) -> Tensor:
        case = self._operator
        u0, known = case.u[slice(*rows), 0], case.parameters[slice(*rows)]
        return rollout(case.operator, u0, known, steps=case.steps, reencode_every=case.reencode_every)

    def _pair_members(self, sampler: str, rows: Rows) -> Tensor:
        now, _, known = self.pairs
        members, chosen = self.settings.members, self.samplers[sampler]
        sample = chosen.sample(self._draw(members, "pairs", rows))
        return one_step_members(chosen.operator, sample, now[slice(*rows)], known[slice(*rows)], members=members)

    def _ensembles(self, sampler: str, rows: Rows) -> Tensor:
        case, where, members = self._operator, self.ensemble_rows[slice(*rows)], self.settings.ensemble_members
        chosen = self.samplers[sampler]
        sample = chosen.sample(self._draw(members, "ensemble", rows))
        u0, known = case.u[where, 0], case.parameters[where]
        return rollout_members(chosen.operator, sample, u0, known, members=members, steps=case.steps)

    def _prior(self) -> tuple[Prior, SteadyFields]:
        if self.models.steady_prior is None or self.steady is None:
            raise ValueError("there is no steady prior, or there are no steady states")
        return self.models.steady_prior, self.steady

    def _steady_members(self, rows: Rows) -> Tensor:
        prior, data = self._prior()
        some = data.select(torch.arange(*rows))
        draw = self._draw(1, "steady", rows)
        return sample_steady(prior, some, members=self.settings.members, steps=self.flow_steps, draw=draw).cpu()


def alone(answer: Answer, question: Question, parts: Sequence[Rows]) -> Iterable[Tensor]:
    """One after the other, in this process."""
    return (answer(question, rows) for rows in parts)


def pieces(n: int) -> list[Rows]:
    """Which of n rows are forecast together: the same for any number of processes."""
    count = max(1, min(PIECES, n // PIECE_ROWS))
    return list(pairwise(n * piece // count for piece in range(count + 1)))


def sample_steady(prior: Prior, data: SteadyFields, *, members: int, steps: int | None, draw: Draw) -> Tensor:
    """Samples of the steady state for each coefficient, (M, N, H, W): by a flow of so many steps; None: at once."""
    device = next(prior.parameters()).device
    a, beta = data.a.to(device), data.beta.to(device)
    known, start = torch.ones(len(a), device=device), torch.zeros(len(a), device=device)

    def sample() -> Tensor:
        drawn = draw(tuple(a.shape))
        if steps is None:
            found: Tensor = prior(drawn, start, a, known)
            return found
        return sample_flow(lambda x, t: prior(x, t, a, known), drawn, steps)

    return torch.stack([sample() for _ in range(members)]) * prior.unit * beta[:, None, None]


def case_of(
    cfg: PipelineConfig, settings: EvalConfig, models: Models, data: EvalData, device: torch.device
) -> OperatorCase | None:
    """The operator with the trajectories that it is evaluated on; None without either. Raises BadInput."""
    if models.operator is None or data.trajectories is None:
        return None
    chosen, total = data.trajectories, len(data.trajectories.row)
    if settings.trajectories < total:
        chosen = chosen.select(evenly_spaced(settings.trajectories, total))
    if (times := chosen.shape[1]) <= settings.given_frames:
        raise BadInput(f"given_frames={settings.given_frames} leaves nothing to forecast: the data have {times} times")
    chosen = chosen.after(settings.given_frames - 1)
    steps = min(settings.rollout_steps, chosen.shape[1] - 1)
    u, parameters = chosen.u.to(device), chosen.conditioning().to(device)
    return OperatorCase(models.operator, chosen, u, parameters, steps, cfg.operator.reencode_every)
