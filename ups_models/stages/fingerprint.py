"""Fingerprints: one value each for the settings, the data recipe and the evaluation that a result depends on.

Settings count by the values that differ from their defaults, under a version: a new field with a default changes
nobody's fingerprint. The version rises when a default changes. Fingerprints of the first edition stay readable.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ups_models.config.constants import CONSTANTS
from ups_models.config.data import DataConfig, SteadyDataConfig
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.config.section import Section
from ups_models.own_code import identity_of, is_reference
from ups_models.stages import first_edition

if TYPE_CHECKING:
    from ups_models.stages.spec import StageSpec

VERSION = 2
"""Rises with every change of a default or of what is hashed; the functions named `is_…` then read the old one too."""


def config_hash(spec: StageSpec, cfg: PipelineConfig) -> str:
    """Identifies everything in the config that the weights of a stage depend on."""
    return _versioned(
        {
            "seed": cfg.seed,
            "arch": dict(spec.arch(cfg)),
            "constants": CONSTANTS[spec.name],
            "settings": non_defaults(cfg.stages.of(spec.name)),
            "data": non_defaults(_data_of(spec, cfg)),
            **_sharded(cfg),
        }
    )


def _sharded(cfg: PipelineConfig) -> dict[str, int]:
    """Into how many shards a step is divided, where it is: its bits depend on that."""
    return {"shards": cfg.training.shards} if cfg.training.shards != 1 else {}


def is_config_hash(saved: str, spec: StageSpec, cfg: PipelineConfig) -> bool:
    """Whether a stage was trained under these settings."""
    return saved == (config_hash(spec, cfg) if _is_versioned(saved) else _first_config_hash(spec, cfg))


def data_recipe(spec: StageSpec, cfg: PipelineConfig) -> str:
    """Identifies which rows of which data train and which are held out; the content of named files is not in it."""
    data = _data_of(spec, cfg)
    parts = {"data": _without(non_defaults(data), data), "n_files": len(data.files)}
    return _versioned(parts | ({"seed": cfg.seed} if _is_generated(data) else {}))


def is_data_recipe(saved: str, spec: StageSpec, cfg: PipelineConfig) -> bool:
    """Whether a stage was trained on these rows of these data."""
    return saved == (data_recipe(spec, cfg) if _is_versioned(saved) else _first_data_recipe(spec, cfg))


def evaluation_hash(cfg: PipelineConfig, settings: EvalConfig) -> str:
    """Identifies everything in both configs that the metrics of an evaluation depend on."""
    relevant = non_defaults(cfg)
    return _versioned([non_defaults(settings), {name: relevant[name] for name in relevant if name not in APART}])


def is_evaluation_hash(saved: str, cfg: PipelineConfig, settings: EvalConfig) -> bool:
    """Whether an evaluation was made under these configs."""
    if _is_versioned(saved):
        return saved == evaluation_hash(cfg, settings)
    return saved == _sha256([first_edition.values_of(settings), first_edition.values_of(cfg)])


APART = ("runtime", "checkpoint", "tracking", "evaluations")
"""Sections that shape no result, or are hashed as the settings of an evaluation."""
SHAPES_NOTHING = frozenset({"in_memory_gb"})
"""Fields of other sections that shape none either."""


def non_defaults(section: Section) -> dict[str, Any]:
    """The values of a section that differ from their defaults, as JSON has them, nested sections alike."""
    dumped: dict[str, Any] = _by_content(section.model_dump(mode="json"))
    found: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        if name in SHAPES_NOTHING:
            continue
        value = getattr(section, name)
        if isinstance(value, Section):
            inner = non_defaults(value)
            if inner:
                found[name] = inner
        elif value != field.get_default(call_default_factory=True):
            is_list = isinstance(value, tuple) and value and isinstance(value[0], Section)
            found[name] = [non_defaults(item) for item in value] if is_list else dumped[name]
    return found


def _by_content(values: dict[str, Any]) -> dict[str, Any]:
    """The same with code of the user's identified by what is in it, not by where it lies."""
    return {
        name: identity_of(one) if isinstance(one, str) and is_reference(one) else one for name, one in values.items()
    }


def _data_of(spec: StageSpec, cfg: PipelineConfig) -> DataConfig | SteadyDataConfig:
    return cfg.steady_data if spec.steady else cfg.data


def _is_generated(data: DataConfig | SteadyDataConfig) -> bool:
    return not data.files and not data.downloads


def _without(values: dict[str, Any], data: DataConfig | SteadyDataConfig) -> dict[str, Any]:
    """Names of files are no part of a recipe, nor is how others would be generated."""
    excluded = {"files"} if _is_generated(data) else {"files", "generate"}
    return {name: value for name, value in values.items() if name not in excluded}


def _first_config_hash(spec: StageSpec, cfg: PipelineConfig) -> str:
    data = _data_of(spec, cfg)
    values = first_edition.values_of(data)
    if not data.downloads:
        del values["downloads"]
    settings = first_edition.values_of(cfg.stages.of(spec.name))
    return _sha256({"seed": cfg.seed, "arch": dict(spec.arch(cfg)), "settings": settings, "data": values})[:16]


def _first_data_recipe(spec: StageSpec, cfg: PipelineConfig) -> str:
    data = _data_of(spec, cfg)
    values = _without(first_edition.values_of(data), data)
    if not data.downloads:
        del values["downloads"]
    parts: dict[str, Any] = {"data": values, "n_files": len(data.files)}
    return _sha256(parts | ({"seed": cfg.seed} if _is_generated(data) else {}))[:16]


def _versioned(parts: object) -> str:
    return f"v{VERSION}:{_sha256(parts)[:32]}"


def _is_versioned(saved: str) -> bool:
    return saved.startswith("v")


def _sha256(parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
