"""Peers: networks of others, trained beside a run on its data, by its recipe, for as long as its operator.

Each is a run of its own below the run, with one stage: it is saved and resumed as any other, and its status is its own.
How many steps it gets is found once, by timing steps of both, and kept.
"""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tasks.services.data.datasets import data_identities, steady_files, trajectory_files
from tasks.services.run.lock import owned
from tasks.services.run.paths import RunDir
from tasks.services.run.status import Record, StageRecord, read_status
from tasks.services.stages.evaluated import data_of, models_of
from tasks.services.stages.inputs import training_data
from tasks.services.stages.torchrun import apart
from tasks.services.stages.training import train_stage_files
from ups_models.config.faults import reason_of
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput
from ups_models.evaluation.evaluate import evaluate
from ups_models.evaluation.inputs import evenly_spaced
from ups_models.evaluation.result import PeerResult, Scores
from ups_models.evaluation.steady import regression_errors
from ups_models.files import known_digest, write_text
from ups_models.nn.codec import means_of
from ups_models.nn.own import as_operator
from ups_models.peers import PEERS, require_peer
from ups_models.peers.flops import fft_flops
from ups_models.reading import Unparsable, parse_json, read_text
from ups_models.stages.lineage import DATA
from ups_models.stages.registry import STAGES
from ups_models.stages.spec import SPECS, StageSpec
from ups_models.stages.stage import field_grid
from ups_models.training.state import TrainState, start_state
from ups_models.training.steps import Steps

logger = logging.getLogger(__name__)

FOLDER, BUDGET, OPERATOR, PRIOR, REGRESSION = "peers", "budget.json", "operator", "steady_prior", "regression"
TIMED, WARM = 5, 2
"""Steps of each part of the unroll that are timed, and those before them that are not."""


class Budget(Record):
    """How many steps a peer is trained, and why: seconds of one of its steps and of one of the operator's."""

    steps: int = Field(gt=0)
    seconds_per_step: float = Field(gt=0)
    operator_seconds_per_step: float = Field(gt=0)
    of: str | None = None
    """The config of the operator; absent in files of earlier versions."""


def evaluate_peers(
    cfg: PipelineConfig, settings: EvalConfig, run: RunDir, device: torch.device
) -> dict[str, PeerResult]:
    """Train each peer that is asked for, where it is not trained yet, and evaluate it on the same rows.

    Raises what training raises, Preempted where it was stopped.
    """
    names = [name for name in settings.peers if name in PEERS]
    if not names:
        return {}
    own = flops_of_step(cfg, models_of(cfg, run, {OPERATOR: None}, device).networks()[OPERATOR], device)
    return {name: _evaluated(name, cfg, settings, run, device, own) for name in names}


def evaluate_regression(cfg: PipelineConfig, settings: EvalConfig, run: RunDir, device: torch.device) -> Scores:
    """Of the steady prior's own network, trained for as many steps to say the state itself."""
    there, its = _run_of(REGRESSION, run), regression_config(cfg, steady_files(cfg, run))
    _train(REGRESSION, PRIOR, its, there)
    models = models_of(its, there, {PRIOR: None}, device)
    steady = data_of(its, settings, there, models).steady
    if models.steady_prior is None or steady is None:
        raise BadInput(f"{REGRESSION}: there is nothing to evaluate it on")
    return regression_errors(models.steady_prior, steady.select(evenly_spaced(settings.steady_samples, len(steady.a))))


def regression_config(cfg: PipelineConfig, files: Mapping[Path, Any]) -> PipelineConfig:
    """The config of its run: the steady prior alone, on the same files, with another objective."""
    values, prior = _values_of_one(PRIOR, cfg), cfg.stages.steady_prior
    size = prior.batch_size * (prior.members if prior.objective == "crps" else 1)  # as many evaluations of the network
    values["stages"][PRIOR] |= {"objective": REGRESSION, "batch_size": size}
    if not cfg.steady_data.files:
        values["steady_data"] |= _named(files)
    return PipelineConfig.model_validate(values)


def peer_config(cfg: PipelineConfig, name: str, files: Mapping[Path, Any], *, steps: int) -> PipelineConfig:
    """The config of a peer's run: its network as the operator, on the same files, with the same recipe."""
    peer, values = require_peer(name, cfg.data.grid), _values_of_one(OPERATOR, cfg)
    values["latent"]["dim"] = field_grid(cfg).values
    values["operator"] |= {"network": peer.reference, "options": dict(peer.options)}
    values["denoiser"] |= {"network": None, "options": {}, "scale_groups": 1}
    values["prior"] |= {"network": None, "options": {}}
    values["stages"][OPERATOR] |= {
        "epochs": 1,
        "steps_per_epoch": steps,
        "lr": peer.lr,
        "reconstruction_weight": 0.0,
        "consistency_weight": 0.0,
    }
    if not cfg.data.files:
        values["data"] |= _named(files)
    return PipelineConfig.model_validate(values)


def _values_of_one(stage: str, cfg: PipelineConfig) -> dict[str, Any]:
    """The config with one stage, from its beginning, and with the threads that there are."""
    values = cfg.model_dump()
    for name, section in values["stages"].items():
        section |= {"init_from": None, **({} if name == stage else {"epochs": 0})}
    values["runtime"]["threads"] = torch.get_num_threads()
    values["evaluations"] = {}
    return values


def _named(files: Mapping[Path, Any]) -> dict[str, Any]:
    """The files of the run, in the place of what it would fetch or solve for."""
    return {"files": tuple(path.absolute() for path in files), "downloads": ()}


def _run_of(name: str, run: RunDir) -> RunDir:
    """Where a peer is trained."""
    there = RunDir.of(run.root / FOLDER / name, Path("checkpoints"))
    there.checkpoints.mkdir(parents=True, exist_ok=True)
    return there


def _train(name: str, stage: str, cfg: PipelineConfig, run: RunDir) -> None:
    """The one stage of a peer, to its end, unless it is there: of this config, on these data, undamaged."""
    record = read_status(run.status).stage(stage)
    is_same = record.config_hash is None or SPECS[stage].is_config_hash(record.config_hash, cfg)
    if record.status == "completed":
        is_same = is_same and _is_whole(record, run) and _is_of_these_data(record, SPECS[stage], cfg, run)
        if is_same:
            return
    logger.info("%s: trains %d steps", name, cfg.stages.of(stage).total_steps)
    with owned(run) as held, apart():
        train_stage_files(stage, cfg, held, fresh=not is_same)


def _is_whole(record: StageRecord, run: RunDir) -> bool:
    """Whether the weights that were recorded are there."""
    paths = {run.checkpoint(name): known for name, known in (record.files or {}).items()}
    return all(path.is_file() and known_digest(path).sha256 == known.sha256 for path, known in paths.items())


def _is_of_these_data(record: StageRecord, spec: StageSpec, cfg: PipelineConfig, run: RunDir) -> bool:
    """Whether the files that it was trained on have the content that they had; unknown where they are gone."""
    recorded = (record.inputs or {}).get(DATA)
    now = data_identities(cfg, run, [recorded] if recorded else [])[spec.steady]
    return recorded is None or not now or recorded in now


def _evaluated(
    name: str, cfg: PipelineConfig, settings: EvalConfig, run: RunDir, device: torch.device, own_flops: float
) -> PeerResult:
    there, files = _run_of(name, run), trajectory_files(cfg, run)
    budget = _budget(name, cfg, run, there.root / BUDGET, files, device)
    its = peer_config(cfg, name, files, steps=budget.steps)
    _train(name, OPERATOR, its, there)
    models = models_of(its, there, {OPERATOR: None}, device)
    alone = settings.model_copy(update={"ensemble_trajectories": 0, "peers": ()})
    result, _ = evaluate(its, alone, models, data_of(its, alone, there, models), device=device)
    if result.rollout is None or result.network is None:
        raise BadInput(f"peer {name}: there is nothing to evaluate it on")
    summary = result.rollout.summary[OPERATOR]
    return PeerResult(
        mean=summary.mean,
        median=summary.median,
        p90=summary.scores["p90"],
        ci95=summary.ci95,
        one_step=result.one_step[OPERATOR]["nrmse"],
        parameters=result.network.parameters,
        steps=budget.steps,
        seconds_per_step=budget.seconds_per_step,
        operator_seconds_per_step=budget.operator_seconds_per_step,
        operator_steps=cfg.stages.operator.total_steps,
        gflops=flops_of_step(its, models.networks()[OPERATOR], device) / 1e9,
        operator_gflops=own_flops / 1e9,
    )


def _budget(
    name: str, cfg: PipelineConfig, run: RunDir, path: Path, files: Mapping[Path, Any], device: torch.device
) -> Budget:
    """How many steps take the peer as long as all steps took this operator; timed once, then kept."""
    kept, of = _kept_budget(path), SPECS[OPERATOR].config_hash(cfg)
    if kept is not None and kept.of in (None, of):
        return kept
    own = cfg.stages.operator
    own_s = seconds_per_step(cfg, run, device)
    peer_s = seconds_per_step(peer_config(cfg, name, files, steps=own.total_steps), run, device)
    steps = max(1, round(own.total_steps * own_s / peer_s))
    found = Budget(steps=steps, seconds_per_step=peer_s, operator_seconds_per_step=own_s, of=of)
    write_text(path, found.model_dump_json(indent=1) + "\n")
    return found


def _kept_budget(path: Path) -> Budget | None:
    """What was timed before; nothing where that is damaged."""
    try:
        return Budget.model_validate(parse_json(read_text(path)))
    except FileNotFoundError:
        return None
    except (ValidationError, Unparsable) as error:
        logger.warning("%s: is not what was timed (%s): steps are timed again", path, reason_of(error))
        return None


def seconds_per_step(cfg: PipelineConfig, run: RunDir, device: torch.device) -> float:
    """Of stage operator, a mean over the parts of its unroll: seconds of this process's CPU, or of a GPU."""
    stage, data = STAGES[OPERATOR], training_data(SPECS[OPERATOR], cfg, run)
    state = start_state(stage, cfg, data, {}, device)
    steps = Steps(stage, cfg, data, {}, device)
    parts, found = len(cfg.stages.operator.unroll), []
    for part in range(parts):
        first = cfg.stages.operator.total_steps * part // parts
        _take(WARM, steps, state, first)
        began = _clock(device)
        _take(TIMED, steps, state, first)
        found.append((_clock(device) - began) / TIMED)
    return sum(found) / parts


def _take(count: int, steps: Steps, state: TrainState, at: int) -> None:
    """The same step so many times."""
    for _ in range(count):
        state.step = at
        steps.take(state)


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def flops_of_step(cfg: PipelineConfig, net: nn.Module, device: torch.device) -> float:
    """Floating-point operations of one forecast of one field: as PyTorch counts them, and FFTs by their formula."""
    operator, problem = as_operator(net), cfg.data.problem
    u = torch.zeros(1, len(problem.channels), *cfg.data.grid, device=device)
    known: Tensor = torch.zeros(1, len(problem.parameters) + 1, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        operator.decode(operator.advance(operator.encode(u), known), means_of(u))
    return float(counter.get_total_flops()) + fft_flops(net, cfg.data.grid)
