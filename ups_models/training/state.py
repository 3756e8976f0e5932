"""The state of a stage in training: how it starts, how it is saved, and how it is found again."""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ups_models.archives import DAMAGES
from ups_models.config.schema import PipelineConfig
from ups_models.errors import ArchitectureMismatch, BadInput, CheckpointError, StorageError
from ups_models.files import keep_previous, previous_of
from ups_models.nn.weights import weights_of
from ups_models.stages.lineage import Lineage, read_lineage, unusable
from ups_models.stages.spec import check_architecture
from ups_models.stages.stage import Data, Stage
from ups_models.training.checkpoint import FORMAT, check_shapes, load_payload, save_payload
from ups_models.training.conditions import changed, exactness, is_compiled
from ups_models.training.ema import ema_copy
from ups_models.training.optim import adamw
from ups_models.training.parallel import World
from ups_models.training.seeds import derive_seed
from ups_models.wording import first_line

logger = logging.getLogger(__name__)

COPIES = 9
"""Of every parameter: network, average, gradient, and two of AdamW's; and four in the copy of a state that is saved."""
FILES, COPIES_SAVED = 2, 4
"""Of every parameter on disk: in the two checkpoints, and in a saved state, which holds no gradient."""
NEEDED = frozenset({"stage", "arch", "config_hash", "exactness", "step", "state_dict", "ema", "optimiser"})


@dataclass
class TrainState:
    """All that a step changes; everything random is derived from the step itself."""

    net: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    conditions: Mapping[str, str] = field(default_factory=dict)
    """What the bits depend on beside the training itself."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.net.parameters()).device


def start_state(
    stage: Stage, cfg: PipelineConfig, data: Data, frozen: Mapping[str, nn.Module], device: torch.device
) -> TrainState:
    """Networks and optimiser before the first step, from the seed or from the stages that this one needs."""
    require_memory(stage, cfg)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.seed, stage.spec.name, "init"))
        net = stage.build(cfg)
    require_no_batch_statistics(stage, net, cfg.training.shards)
    if stage.init_from_data is not None:
        stage.init_from_data(net, data)
    net.to(device)
    if stage.init_from_frozen is not None:
        stage.init_from_frozen(cfg, net, frozen)
    start = cfg.stages.of(stage.spec.name).init_from
    if start is not None:
        start_from(net, start, stage.spec.name)
    ema = ema_copy(net)
    if is_compiled(cfg, device):
        for one in (net, ema, *frozen.values()):  # a step runs all of them
            for part in _called(one):
                part.compile()
    return TrainState(net, ema, adamw(net, cfg.stages.of(stage.spec.name)), conditions=exactness(cfg, device))


def _called(net: nn.Module) -> list[nn.Module]:
    """The outermost parts of a network that are called as modules, and so can be compiled."""
    if type(net).forward is not nn.Module.forward:
        return [net]
    return [part for child in net.children() for part in _called(child)]


def start_from(net: nn.Module, path: Path, stage: str) -> None:
    """Take the tensors of another run's checkpoint that have the same name and shape; the others stay as they are.

    Raises CheckpointError for a checkpoint of another stage, and for one that fits nowhere.
    """
    payload = load_payload(path)
    if payload.get("stage", stage) != stage:
        raise CheckpointError(f"{path}: is a checkpoint of stage {payload['stage']}, not of {stage}")
    own = weights_of(net)
    fitting = {
        name: value
        for name, value in payload["state_dict"].items()
        if name in own and own[name].shape == value.shape and own[name].dtype == value.dtype
    }
    if not fitting:
        raise CheckpointError(f"{path}: none of its tensors fits the network of stage {stage}; start without it")
    net.load_state_dict(fitting, strict=False)
    fresh = sorted(own.keys() - fitting.keys())
    rest = f"; anew: {', '.join(fresh[:4])}{', …' if len(fresh) > 4 else ''}" if fresh else ""
    logger.info("%s: starts from %d of its %d tensors in %s%s", stage, len(fitting), len(own), path, rest)


def require_no_batch_statistics(stage: Stage, net: nn.Module, shards: int) -> None:
    """Raise BadInput for a network that keeps statistics of its batches, where these are divided into shards."""
    kept = [type(module).__name__ for module in net.modules() if _keeps_statistics(module)]
    if kept and shards > 1:
        raise BadInput(
            f"{stage.name}: its network has a {kept[0]}, which keeps statistics of what a process sees, but "
            f"training.shards={shards}; use GroupNorm, or training.shards=1"
        )


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer's output or buffers depend on which rows a process has seen."""
    own = (nn.modules.batchnorm._BatchNorm, nn.utils.parametrizations._SpectralNorm)
    return isinstance(module, own) or bool(getattr(module, "track_running_stats", False))


def n_parameters(stage: Stage, cfg: PipelineConfig) -> int:
    """Of the stage's network, which is not made for that."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                net = stage.build(cfg)
        except BadInput:  # a network of the user's may look at numbers while it is made; any other error is raised here
            net = stage.build(cfg)
    return sum(value.numel() for value in net.parameters())


def require_disk(folder: Path, stage: Stage, cfg: PipelineConfig) -> None:
    """Raise StorageError where the disk of a folder has no room for what the stage will write there."""
    states = 1 + 1 + cfg.checkpoint.keep_previous  # one is being written beside the others
    needed = 4 * n_parameters(stage, cfg) * (FILES + COPIES_SAVED * states)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"{folder}: stage {stage.spec.name} will write {needed / 1e9:,.3g} GB; the disk has {free / 1e9:,.3g} GB. "
            "Free some space (ups clean), or set checkpoint.keep_previous=false"
        )


def require_memory(stage: Stage, cfg: PipelineConfig) -> None:
    """Say what a large network needs before it is built. Raises BadInput for one that no memory here can hold."""
    numbers = n_parameters(stage, cfg)
    needed, total = COPIES * 4 * numbers, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    what = f"{stage.spec.name}: a network of {numbers:,} parameters needs {needed / 1e9:,.3g} GB to be trained"
    if needed > total:
        raise BadInput(f"{what}, and this machine has {total / 1e9:,.3g} GB of memory; use a smaller latent or width")
    if needed > total / 4:
        logger.warning("%s, beside what its steps take", what)


def save_state(path: Path, state: TrainState, lineage: Lineage, *, with_previous: bool = True) -> None:
    """Write the state of a stage in progress, atomically; the one before it is kept, if wanted."""
    stepped = lineage.model_copy(update={"step": state.step})
    write_state(path, saved_form(state, lineage), stepped, with_previous=with_previous)


def saved_form(state: TrainState, lineage: Lineage) -> dict[str, Any]:
    """What is saved of a state; its tensors are those of the state."""
    return {
        "format": FORMAT,
        "stage": lineage.stage,
        "arch": lineage.arch,
        "config_hash": lineage.config_hash,
        "exactness": dict(state.conditions),
        "step": state.step,
        **moving_parts(state),
    }


def write_state(path: Path, form: Mapping[str, Any], lineage: Lineage, *, with_previous: bool) -> None:
    """Write what is saved of a state, atomically; the one before it is kept, if wanted."""
    if with_previous:
        keep_previous(path)
    save_payload(path, form, lineage)


def find_state(
    path: Path, start: Callable[[], TrainState], stage: Stage, cfg: PipelineConfig, lineage: Lineage
) -> TrainState:
    """The newest saved state that can be used, of `path` and the one before it; else a state before the first step.

    One that cannot be used, for whatever reason, is named in a warning. The one that is used then lies at `path`.
    """
    for candidate in (path, previous_of(path)):
        if candidate.exists():
            state = start()
            try:
                load_state(candidate, state, stage, cfg, lineage)
            except (CheckpointError, ArchitectureMismatch) as error:
                logger.warning("%s: a saved state is not used: %s", stage.spec.name, error)
                continue
            if candidate != path:
                candidate.replace(path)
            return state
    return start()


def share_state(state: TrainState, world: World) -> None:
    """Give every process of the world the first one's state."""
    if world.group is None:
        return
    moving, step = world.from_first((moving_parts(state), state.step) if world.rank == 0 else None)
    if world.rank != 0:
        put_back(state, moving)
        state.step = step


def moving_parts(state: TrainState) -> dict[str, dict[str, Any]]:
    """What a step changes of a state, without its number: the tensors of both networks, and the optimiser's."""
    return {
        "state_dict": weights_of(state.net),
        "ema": weights_of(state.ema),
        "optimiser": state.optimiser.state_dict(),
    }


def put_back(state: TrainState, moving: Mapping[str, Any]) -> None:
    """The inverse. Raises what PyTorch does where the tensors are those of another network."""
    state.net.load_state_dict(moving["state_dict"])
    state.ema.load_state_dict(moving["ema"])
    state.optimiser.load_state_dict(moving["optimiser"])


def load_state(path: Path, state: TrainState, stage: Stage, cfg: PipelineConfig, lineage: Lineage) -> None:
    """Put a saved state into `state`. Raises CheckpointError, ArchitectureMismatch when it is of another training.

    A state saved under other conditions is used all the same, with a warning that the bits may differ.
    """
    saved = load_payload(path)
    refusal = unusable(read_lineage(path), stage.spec, cfg, lineage.inputs)
    if refusal is not None:
        raise CheckpointError(f"{path}: {refusal}")
    if missing := sorted(NEEDED - saved.keys()):
        raise CheckpointError(f"{path}: is no saved state: it has no {', '.join(missing)}")
    _check(path, saved, stage, cfg)
    for change in changed(saved["exactness"], state.conditions):
        logger.warning("%s: %s: training resumes, but not to the same bits", stage.spec.name, change)
    check_shapes(path, saved["state_dict"], state.net)
    try:
        put_back(state, saved)
        state.step = saved["step"]
    except DAMAGES as error:
        raise CheckpointError(f"{path}: is no whole saved state ({first_line(error)})") from None


def _check(path: Path, saved: Mapping[str, Any], stage: Stage, cfg: PipelineConfig) -> None:
    """What the file itself says, for those that have no header too."""
    if saved.get("stage") != stage.spec.name:
        raise CheckpointError(f"{path}: is no saved state of stage {stage.spec.name}")
    check_architecture(path, saved["arch"], stage.spec.arch(cfg))
    if not stage.spec.is_config_hash(saved["config_hash"], cfg):
        raise CheckpointError(f"{path}: was saved under other settings of stage {stage.spec.name}")
    last = cfg.stages.of(stage.spec.name).total_steps
    if type(saved["step"]) is not int or not 0 <= saved["step"] <= last:
        raise CheckpointError(f"{path}: stands at step {saved['step']!r:.40}, but the stage has {last}")
