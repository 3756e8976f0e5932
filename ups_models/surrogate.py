"""A trained surrogate, to be used: rollouts and samples of fields, for a notebook or a loop of one's own."""

import logging
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.data.sizes import GIGABYTE, machine_memory
from ups_models.errors import BadInput, CheckpointError
from ups_models.evaluation.inputs import Models
from ups_models.evaluation.parts import default_sampler
from ups_models.evaluation.rollout import one_step_members, rollout, rollout_members
from ups_models.evaluation.samplers import Sampler, residual_samplers
from ups_models.exported import SUFFIX, read_export, require_same_code
from ups_models.files import known_digest
from ups_models.nn.own import Operator
from ups_models.nn.sampling import Draw, noise
from ups_models.own_code import KEPT, identified, trust_kept
from ups_models.problems.problem import Parameter, Problem, given_twice
from ups_models.stages.lineage import Lineage, difference, in_words, read_lineage
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS
from ups_models.training.checkpoint import check_shapes, load_network
from ups_models.wording import first_line, shown

logger = logging.getLogger(__name__)

SOURCES = "ups.sources"
"""Entry points that bring runs from elsewhere."""
CONFIG = "config.yaml"
"""What a run directory keeps of what was asked for."""
BATCH, SLACK = 256, 1e-6
OF_FIELDS = tuple(stage for stage, spec in SPECS.items() if not spec.steady)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Prediction:
    """Fields over time.

    Attributes:
        u: ([M,] [N,] T + 1, C, *space) float32, beginning with the initial field; M members and N fields where there
            are several.
        t: Times (T + 1,), from 0.
        coordinates: The coordinate along each axis of space, by its name.
    """

    u: Array
    t: Array
    coordinates: Mapping[str, Array]


@dataclass(frozen=True)
class Surrogate:
    """The trained networks of one run, and what they were trained on."""

    operator: Operator
    models: Models
    cfg: PipelineConfig
    trained_on: Mapping[str, Any]
    """`points`, `dt`, and the range of each parameter; empty for weights that do not say."""
    device: torch.device

    @property
    def problem(self) -> Problem:
        """The equation."""
        return self.cfg.data.problem

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the equation's parameters."""
        return tuple(one.name for one in self.problem.parameters)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """The ways to sample a residual that the run has trained."""
        return residual_samplers(self.cfg.denoiser, EvalConfig(), self.models)

    def step(self, u: npt.ArrayLike, **parameters: Any) -> Array:
        """One step ahead of ([N,] C, *space), alike."""
        found = self.rollout(u, steps=1, **parameters).u
        return np.asarray(found.take(1, -2 - self.problem.dimensions))

    def sample(
        self, u: npt.ArrayLike, *, members: int, seed: int = 0, sampler: str | None = None, **parameters: Any
    ) -> Array:
        """Members one step ahead, (M, [N,] C, *space). Raises BadInput."""
        fields, conditioning, is_alone = self._inputs(u, parameters)
        _require_counts(members=members)
        _require_memory(members * fields.numel())
        chosen = self._sampler(sampler)
        sample = chosen.sample(_draw(seed, self.device))
        pieces = [
            one_step_members(chosen.operator, sample, part, known, members=members).cpu()
            for part, known in zip(fields.split(BATCH), conditioning.split(BATCH), strict=True)
        ]
        found = torch.cat(pieces, 1).numpy()
        return np.asarray(found[:, 0] if is_alone else found)

    def rollout(
        self,
        u0: npt.ArrayLike,
        *,
        steps: int,
        members: int | None = None,
        seed: int = 0,
        sampler: str | None = None,
        **parameters: Any,
    ) -> Prediction:
        """Many steps from one field or several: ([N,] C, *space), or without C where there is one channel.

        Without `members` the operator alone, else an ensemble of so many. `parameters` are the equation's, by name,
        one number or one for each field. Raises BadInput for another grid, channel or parameter than it was trained
        with; warns where a parameter is outside what it was trained on.
        """
        fields, conditioning, is_alone = self._inputs(u0, parameters)
        _require_counts(steps=steps, **({} if members is None else {"members": members}))
        _require_memory((members or 1) * (steps + 1) * fields.numel())
        if members is None and sampler is not None:
            raise BadInput(f"sampler={shown(sampler)} samples members; say how many: members=8")
        every, pieces, draw = self.cfg.operator.reencode_every, [], _draw(seed, self.device)
        for part, known in zip(fields.split(BATCH), conditioning.split(BATCH), strict=True):
            if members is None:
                found = rollout(self.operator, part, known, steps=steps, reencode_every=every)
                start = part[:, None]
            else:
                chosen = self._sampler(sampler)
                sample = chosen.sample(draw)
                found = rollout_members(chosen.operator, sample, part, known, members=members, steps=steps)
                start = part[None, :, None].expand(members, *part[:, None].shape)
            pieces.append(torch.cat([start, found], found.ndim - fields.ndim).cpu())
        u = torch.cat(pieces, 0 if members is None else 1)
        u = u.select(0 if members is None else 1, 0) if is_alone else u
        return Prediction(u.numpy(), self.dt * np.arange(steps + 1), self.coordinates)

    @property
    def dt(self) -> float:
        """Time of one step."""
        said, generate = self.trained_on.get("dt"), self.cfg.data.generate
        stride = self.cfg.data.reduced_resolution_t
        return float(said) if said is not None else generate.t_end / (generate.nt - 1) * stride

    @property
    def coordinates(self) -> dict[str, Array]:
        """The coordinate along each axis of space."""
        stride = self.cfg.data.reduced_resolution
        pairs = zip(self.problem.axes, self.cfg.data.grid, strict=True)
        return {axis.name: np.asarray(axis.positions(points * stride)[::stride]) for axis, points in pairs}

    def _inputs(self, u: npt.ArrayLike, parameters: Mapping[str, float]) -> tuple[Tensor, Tensor, bool]:
        """Fields (N, C, *space), what networks are conditioning of each, and whether one field was given alone."""
        fields = _numbers("fields", u).to(self.device)
        space = self.cfg.data.grid
        wanted, given = (len(self.problem.channels), *space), tuple(fields.shape)
        if wanted[0] == 1 and given[-len(space) :] == space and given[: -len(space)] != (1,):
            fields = fields.unsqueeze(-len(space) - 1) if fields.ndim < len(wanted) + 1 else fields
        is_alone = fields.ndim == len(wanted)
        fields = fields[None] if is_alone else fields
        if tuple(fields.shape[1:]) != wanted or not len(fields) or not bool(torch.isfinite(fields).all()):
            raise BadInput(
                f"fields of shape {given} were given, but {self.problem.name} was trained on finite ones of "
                f"(N, {', '.join(map(str, wanted))}): channels {', '.join(self.problem.channels)}, then "
                f"{', '.join(axis.name for axis in self.problem.axes)}"
            )
        return fields, self._conditioning(parameters, len(fields)), is_alone

    def _conditioning(self, given: Mapping[str, Any], n: int) -> Tensor:
        """The conditioning (N, P + 1). Raises BadInput for a parameter that is none, missing or impossible."""
        if twice := given_twice(given):
            raise BadInput(f"{twice} is given twice, in two spellings")
        for name in given:
            if self.problem.parameter(name) is None:
                known = ", ".join(self.parameters) or "none"
                raise BadInput(f"{self.problem.name} has no parameter {shown(name)}; its parameters: {known}")
        values = {one.name: self._values_of(one, given) for one in self.problem.parameters}
        for name, found in values.items():
            if found.ndim > 1 or found.numel() not in (1, n):
                shape = tuple(found.shape)
                raise BadInput(
                    f"{name} has shape {shape} for {n} fields; give one number for all, or ({n},), one for each"
                )
        columns = [one.as_input(values[one.name].to(self.device).expand(n)) for one in self.problem.parameters]
        return torch.stack([*columns, torch.full((n,), self.dt, device=self.device).log()], -1)

    def _values_of(self, one: Parameter, given: Mapping[str, Any]) -> Tensor:
        """A parameter as it was given, or the only value that it was trained on. Warns of what lies outside."""
        low, high = self.trained_on.get("parameters", {}).get(one.name, (-math.inf, math.inf))
        value = next((value for name, value in given.items() if name.lower() == one.name.lower()), None)
        if value is None and low != high:
            raise BadInput(f"{one.name} is missing: give its value, as in {one.name.lower()}={one.default:g}")
        numbers = _numbers(one.name, low if value is None else value)
        if not numbers.numel():
            raise BadInput(f"{one.name} has no value; give one number for all fields, or one for each")
        for number in dict.fromkeys((float(numbers.min()), float(numbers.max()))):
            if not one.allows(number):
                raise BadInput(f"{one.name}={number:g} is not possible for {self.problem.name}")
            if not low - SLACK * abs(low) <= number <= high + SLACK * abs(high):
                logger.warning(
                    "%s=%g is outside what was trained on, %g to %g: nothing is known of the error",
                    one.name, number, low, high,
                )  # fmt: skip
        return numbers

    def _sampler(self, name: str | None) -> Sampler:
        known = self.samplers
        chosen = name or default_sampler(known)
        if not isinstance(chosen, str) or chosen not in known:
            trained = ", ".join(known) or "none: the run has an operator alone"
            raise BadInput(f"there is no sampler {shown(chosen)}; trained: {trained}")
        return known[chosen]


def _numbers(name: str, value: npt.ArrayLike) -> Tensor:
    """As float32. Raises BadInput for what is no array of real numbers, or hides some of them."""
    if isinstance(value, Tensor):
        value = (value.float() if value.is_floating_point() else value).detach().cpu()
    if np.ma.is_masked(value):
        raise BadInput(f"{name}: some numbers are masked, and every one is needed; fill them in first")
    try:
        found = np.asarray(value)
        if found.dtype.kind in "fiu":
            return torch.as_tensor(np.array(found, dtype=np.float32))
        kind = str(found.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        kind = first_line(error)
    raise BadInput(f"{name}: are no real numbers ({kind}); give an array of floats")


def _require_counts(**counts: object) -> None:
    for name, count in counts.items():
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise BadInput(f"{name}={count!r} is not possible; use a whole number above zero")


def _require_memory(numbers: int) -> None:
    """Raise BadInput where a forecast of so many float32 numbers, joined from its pieces, is more than there is."""
    needed, total = 2 * 4 * numbers, machine_memory()
    if needed > total:
        raise BadInput(
            f"this forecast needs {needed / GIGABYTE:,.3g} GB of memory, and this machine has "
            f"{total / GIGABYTE:,.3g} GB; ask for fewer steps, members or fields at a time"
        )


def _draw(seed: object, device: torch.device) -> Draw:
    """Noise as a function of the seed: of all fields, however many are computed at once."""
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise BadInput(f"seed={seed!r} is not possible; use a whole number from 0 to 2^63 - 1")
    return partial(noise, rng=torch.Generator(device).manual_seed(int(seed)))


def load_surrogate(run: str | Path, *, device: str = "cpu", trust_code: Collection[str] = ()) -> Surrogate:
    """The surrogate that a run has trained: from its directory, from a W&B run, or from a file of `ups export`.

    `trust_code` are files of code that came with the run and may be executed, as `my_net.py`: nothing else is. Raises
    BadInput for what is no run, CheckpointError where its checkpoints are missing, damaged, or of two trainings.
    """
    _require_device(device)
    root = Path(run)
    if root.suffix == SUFFIX and root.exists():
        exported = read_export(root)
        require_same_code(exported, root)
        nets = {stage: _filled(stage, exported.cfg, values, root) for stage, values in exported.weights.items()}
        return _surrogate(exported.cfg, nets, exported.trained_on, device)
    if not (root / CONFIG).is_file():
        root = _brought_here(str(run), trust_code)
    if trust_code:
        headers = [read_lineage(path) for path in sorted(root.glob("*/*_ema.pt"))]
        trust_kept(root / KEPT, trust_code, identified(one.arch for one in headers if one is not None))
    cfg, files = _run_in(root)
    operator = _lineages(cfg, files).get("operator")
    nets = {stage: _loaded(stage, cfg, path) for stage, path in files.items()}
    return _surrogate(cfg, nets, (operator.trained_on if operator is not None else None) or {}, device)


def _require_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch without CUDA asserts that it has it
        raise BadInput(f"device {shown(device)}: cannot be used here ({first_line(error)}); choose cpu") from None


def _surrogate(
    cfg: PipelineConfig, nets: Mapping[str, nn.Module], trained_on: Mapping[str, Any], device: str
) -> Surrogate:
    fixed: dict[str, Any] = {stage: net.to(device).requires_grad_(False).eval() for stage, net in nets.items()}
    return Surrogate(fixed["operator"], Models.of(fixed), cfg, trained_on, torch.device(device))


def _filled(stage: str, cfg: PipelineConfig, weights: Mapping[str, Tensor], origin: Path) -> nn.Module:
    net = STAGES[stage].build(cfg)
    check_shapes(origin, weights, net)
    net.load_state_dict(weights)
    return net


def _loaded(stage: str, cfg: PipelineConfig, path: Path) -> nn.Module:
    net = STAGES[stage].build(cfg)
    load_network(path, net, stage=stage, arch=SPECS[stage].arch(cfg))
    return net


def _run_in(root: Path) -> tuple[PipelineConfig, dict[str, Path]]:
    """A run's config, and the checkpoints of trajectories that it has, by stage. Raises CheckpointError."""
    cfg = load_config(root / CONFIG, schema=PipelineConfig)
    folder = cfg.checkpoint.dir if cfg.checkpoint.dir.is_absolute() else root / cfg.checkpoint.dir
    files = {stage: folder / SPECS[stage].checkpoint for stage in OF_FIELDS}
    if not files["operator"].is_file():
        raise CheckpointError(f"{files['operator']}: no such checkpoint; train the operator first")
    return cfg, {stage: path for stage, path in files.items() if path.is_file()}


def _brought_here(run: str, trust_code: Collection[str]) -> Path:
    """A run that lies elsewhere, in a directory here: whoever offers to bring runs is asked. Raises BadInput."""
    for source in entry_points(group=SOURCES):
        bring: Callable[[str, Collection[str]], Path | None] = source.load()
        found = bring(run, trust_code)
        if found is not None:
            return found
    raise BadInput(
        f"{run}: is no run: it holds no {CONFIG}. Name a run's directory, a file of `ups export`, or a W&B run as "
        "entity/project/id"
    )


def _lineages(cfg: PipelineConfig, files: Mapping[str, Path]) -> dict[str, Lineage]:
    """What the checkpoints say of their descent. Raises CheckpointError where one was trained from another."""
    digests = {SPECS[stage].checkpoint: known_digest(path).sha256 for stage, path in files.items()}
    found = {}
    for stage, path in files.items():
        lineage = read_lineage(path)
        if lineage is None:
            continue
        now = {name: digest for name, digest in digests.items() if name in lineage.inputs}
        other = difference(SPECS[stage], cfg, lineage.inputs, now)
        if other is not None:
            raise CheckpointError(f"{path}: was trained with {in_words(other)} than lies beside it; train it again")
        found[stage] = lineage
    return found
