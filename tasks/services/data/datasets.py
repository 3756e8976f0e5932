"""The data of a run: the files a config names, or the ones we solve for when it names none."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.services.data.digests import digest_in, forget, identity_of, is_sampled, sampled_identity_of, spoilt
from tasks.services.data.download import fetch
from tasks.services.run import environment
from tasks.services.run.lock import OwnedRun
from tasks.services.run.paths import RunDir
from tasks.services.run.phase import announce
from tasks.services.run.progress import progress_of
from tasks.services.run.turns import turn
from tasks.services.run.uninterrupted import leave_if_stopped
from ups_models.config.data import DataConfig, SteadyDataConfig
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import BadInput
from ups_models.own_code import identity_of as identity_of_code
from ups_models.own_code import is_reference
from ups_models.problems.problem import Problem, Values
from ups_models.problems.registry import DARCY
from ups_models.stages.spec import SPECS

GIGABYTE = 1_000_000_000
logger = logging.getLogger(__name__)

if TYPE_CHECKING:  # PyTorch and h5py are imported only where data is read
    from torch import Tensor

    from ups_models.data.fields import Fields, SteadyFields


def trajectory_files(cfg: PipelineConfig, run: RunDir) -> dict[Path, Values]:
    """The files to train the operator on, and the parameters that each would be generated with."""
    generate = cfg.data.generate
    recipe: list[object] = [cfg.seed, _solved_points(cfg.data), generate.n, generate.nt, generate.t_end]
    if is_reference(cfg.data.family):  # another solver makes other data
        recipe.append(identity_of_code(cfg.data.family))
    return _files(cfg.data, cfg.data.values, cfg.data.problem, recipe, run)


def _solved_points(data: DataConfig) -> int:
    """Points along each axis of data that we solve for, which is square."""
    return data.grid[0] * data.reduced_resolution


def steady_files(cfg: PipelineConfig, run: RunDir) -> dict[Path, Values]:
    """The files of steady states, and the parameter that each would be generated with."""
    size = cfg.steady_data.size * cfg.steady_data.reduced_resolution
    values = [{DARCY.parameters[0].name: one} for one in cfg.steady_data.generate.parameters]
    return _files(cfg.steady_data, values, DARCY, [cfg.seed, size, cfg.steady_data.generate.n], run)


def data_identities(cfg: PipelineConfig, run: RunDir, recorded: Collection[str] = ()) -> dict[bool, tuple[str, ...]]:
    """Identities of the trajectories (False) and of the steady states (True); none where a file is not there.

    First that of the whole content, then, where one of the `recorded` is of that kind, the first edition's. The
    owner of the run keeps the digests beside the files.
    """
    also_sampled = any(map(is_sampled, recorded))
    files = {False: tuple(trajectory_files(cfg, run)), True: tuple(steady_files(cfg, run))}
    found = {}
    for steady, paths in files.items():
        whole = _identity(cfg.steady_data if steady else cfg.data, paths, run)
        sampled = sampled_identity_of(paths) if also_sampled else None
        found[steady] = tuple(identity for identity in (whole, sampled) if identity is not None)
    return found


def _identity(data: DataConfig | SteadyDataConfig, paths: tuple[Path, ...], run: RunDir) -> str | None:
    return identity_of(paths, keep=isinstance(run, OwnedRun), solved_here=_is_solved_here(data))


def _is_solved_here(data: DataConfig | SteadyDataConfig) -> bool:
    return not data.files and not data.downloads


def require_named_files(
    cfg: PipelineConfig, run: RunDir, stages: Collection[str], evaluations: Iterable[EvalConfig] = ()
) -> None:
    """Read the files that the config names and that `stages` will need. Raises DataError, BadInput.

    What was read is kept for the stages, so looking before the run begins costs nothing.
    """
    needed = [SPECS[name] for name in stages]
    for path in (*cfg.data.files, *cfg.steady_data.files):
        if path.is_symlink():
            logger.info("%s is a link to %s", path, path.resolve())
    if cfg.data.files and any(not spec.steady for spec in needed):
        data = load_data(cfg, run)
        _require_rows("data", cfg.data, cfg.data.files, data.row)
        for settings in evaluations:
            if (times := data.shape[1]) <= settings.given_frames:
                raise BadInput(
                    f"{cfg.data.files[0]}: given_frames={settings.given_frames} leaves nothing to forecast: the data "
                    f"have {times} times"
                )
    if cfg.steady_data.files and any(spec.steady for spec in needed):
        _require_rows("steady_data", cfg.steady_data, cfg.steady_data.files, load_steady_data(cfg, run).row)


def load_data(cfg: PipelineConfig, run: RunDir) -> Fields:
    """All trajectories of the config; generates files that are ours to make and not there yet."""
    files = trajectory_files(cfg, run)
    _fetch(cfg, cfg.data, run)
    if _is_solved_here(cfg.data):
        times = {"nt": cfg.data.generate.nt, "t_end": cfg.data.generate.t_end}
        nx = _solved_points(cfg.data)
        _generate(cfg.data.family, files, n=cfg.data.generate.n, seed=cfg.seed, nx=nx, **times)
    data = _read_once(cfg.data.model_dump_json(), tuple(files), _identity(cfg.data, tuple(files), run))
    require_size("data.points", cfg.data.grid, data.grid, next(iter(files)))
    try:
        cfg.check_times(data.shape[1])
    except ValueError as error:
        raise BadInput(f"{next(iter(files))}: {error}") from None
    return data


def load_steady_data(cfg: PipelineConfig, run: RunDir) -> SteadyFields:
    """All steady states of the config; generates files that are ours to make and not there yet."""
    files, data = steady_files(cfg, run), cfg.steady_data
    _fetch(cfg, data, run)
    if _is_solved_here(data):
        _generate(DARCY.name, files, n=data.generate.n, seed=cfg.seed, nx=data.size * data.reduced_resolution)
    return _read_steady(data, tuple(files), _identity(data, tuple(files), run))


def read_trajectories(cfg: DataConfig, files: Sequence[Path], *, limit: int | None = None) -> Fields:
    """The trajectories in files, thinned out as the config says. Raises DataError."""
    from ups_models.data.layouts.reading import load_fields

    strides = {"stride": cfg.reduced_resolution, "stride_t": cfg.reduced_resolution_t}
    asked = {
        "limit": limit,
        "said": cfg.parameters,
        "repeats": cfg.repeats,
        "in_memory": int(cfg.in_memory_gb * GIGABYTE),
    }
    return load_fields(files, cfg.problem, layout=cfg.layout, **strides, **asked)


@lru_cache(maxsize=1)
def _read_once(data: str, files: tuple[Path, ...], _fingerprint: str | None) -> Fields:
    """Read once, and again when the content has changed: four stages and two evaluations use the same rows."""
    cfg = DataConfig.model_validate_json(data)
    return read_trajectories(cfg, files, limit=cfg.limit)


@lru_cache(maxsize=1)
def _read_steady(data: SteadyDataConfig, files: tuple[Path, ...], _fingerprint: str | None) -> SteadyFields:
    """The same for steady states."""
    from ups_models.data.layouts.pdebench import load_steady
    from ups_models.data.partly_known import as_known

    found = load_steady(files, reduced_resolution=data.reduced_resolution, limit=data.limit)
    require_size("steady_data.size", (data.size,), found.a.shape[-1:], files[0])
    return as_known(found, data.known)


def require_size(key: str, wanted: tuple[int, ...], found: tuple[int, ...], path: Path) -> None:
    """Raise BadInput when a file's grid is not the one that the config, and with it the network, has."""
    if tuple(wanted) != tuple(found):
        has, says = _one_or_all(found), _one_or_all(wanted)
        raise BadInput(
            f"{path}: has {has} grid points after the reduction, but the config says {key}={says}; set {key}: {has}, "
            "or another reduced_resolution"
        )


def _one_or_all(sizes: tuple[int, ...]) -> int | list[int]:
    return sizes[0] if len(set(sizes)) == 1 else list(sizes)


def data_folder(run: RunDir) -> Path:
    """Where data lie that we solve for or download: in UPS_DATA, which several runs share, or in the run."""
    return environment.path(environment.DATA, "") if environment.is_set(environment.DATA) else run.data


def _files(
    data: DataConfig | SteadyDataConfig,
    values: Sequence[Values],
    problem: Problem,
    recipe: Sequence[object],
    run: RunDir,
) -> dict[Path, Values]:
    if data.files:
        return {path: {} for path in data.files}
    if data.downloads:
        return {data_folder(run) / download.name: {} for download in data.downloads}
    files = {}
    for one in values:
        numbers = [one[parameter.name] for parameter in problem.parameters]
        key = hashlib.sha256(json.dumps([*recipe, *numbers]).encode()).hexdigest()[:8]
        files[data_folder(run) / problem.file_name(numbers, key)] = one
    return files


def files_of_ours(cfg: PipelineConfig, run: RunDir) -> list[Path]:
    """What lies in the run's own folder of data and is solved or fetched again, with what is kept beside each."""
    sections = ((cfg.data, trajectory_files), (cfg.steady_data, steady_files))
    names = [path.name for data, files_of in sections if not data.files for path in files_of(cfg, run)]
    beside = [path for name in names for dot in ("", ".") for path in run.data.glob(f"{dot}{glob.escape(name)}.*")]
    return [*(path for name in names if (path := run.data / name).exists()), *sorted(beside)]


def _fetch(cfg: PipelineConfig, data: DataConfig | SteadyDataConfig, run: RunDir) -> None:
    """Download what the config names; in a folder that runs share, one of them at a time."""
    for download in data.downloads:
        path = data_folder(run) / download.name
        with turn(path, f"data {path.name}") if environment.is_set(environment.DATA) else nullcontext():
            fetch(download, data_folder(run), cfg.tracking)


def _generate(family: str, files: dict[Path, Values], *, n: int, **options: Any) -> None:
    for path, values in files.items():
        is_shared = environment.is_set(environment.DATA)
        is_made = is_shared and (not path.exists() or spoilt(path) is not None)
        with turn(path, f"data {path.name}") if is_made else nullcontext():
            _generate_one(family, path, values, n=n, **options)


def _generate_one(family: str, path: Path, values: Values, *, n: int, **options: Any) -> None:
    from ups_models.data.generate import generate

    before = spoilt(path) if path.exists() else None
    if before is not None:
        logger.warning("%s: is not what was solved (its sha256 differs): it is solved again", path)
        forget(path)
    if not path.exists():
        announce("data")
        with progress_of(f"data {path.name}", n) as update:

            def on_progress(done: int) -> None:
                leave_if_stopped(f"data {path.name}")
                update(done, "solved")

            generate(family, path, n=n, parameters=values, on_progress=on_progress, **options)
    if before is not None and digest_in(path).sha256 != before:
        logger.warning("%s: solved again, but not to the same bytes: another version of a library is in use", path)


def _require_rows(section: str, data: DataConfig | SteadyDataConfig, files: tuple[Path, ...], row: Tensor) -> None:
    rows = int(row.max()) + 1
    if rows <= data.test + data.val:
        raise BadInput(
            f"{files[0]}: has {rows} rows, which leaves nothing to train on after {section}.test={data.test} and "
            f"{section}.val={data.val}; hold out fewer, or use more data"
        )
