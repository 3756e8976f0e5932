"""Fingerprints: what changes them, what does not, and that those of the first edition are still read."""

import hashlib
import json
from typing import Any

import pytest
from pydantic import Field, create_model

from flows import ROOT
from ups_models.config import constants
from ups_models.config.data import DownloadConfig
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.config.section import Section
from ups_models.stages import fingerprint
from ups_models.stages.spec import SPECS

DOWNLOAD = 'data.downloads=[{url: "https://example.org/a.hdf5", sha256: "' + "a" * 64 + '"}]'


def later_class(section: type[Section]) -> Any:
    """The same section in a later version: one more field with a default, in it and in every section below."""
    nested: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            inner = later_class(kind)
            nested[name] = (inner, Field(default_factory=inner))
        elif name == "downloads":
            item = later_class(DownloadConfig)
            nested[name] = (tuple[item, ...], ())  # type: ignore[valid-type]  # made at run time
    return create_model(section.__name__, __base__=section, added_later=(int, 7), **nested)


def later(cfg: Section) -> Any:
    return later_class(type(cfg)).model_validate(cfg.model_dump())


def config(name="smoke", *overrides):
    return load_config(ROOT / "configs" / f"{name}.yaml", overrides, schema=PipelineConfig)


def old_hash(parts, length=None):
    """As the first edition made them."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:length]


@pytest.mark.parametrize("cfg", [config(), config("quickstart"), config("smoke", DOWNLOAD)], ids=["a", "b", "c"])
def test_a_new_field_with_a_default_in_every_section_changes_no_fingerprint(cfg):
    new, settings = later(cfg), EvalConfig(members=4)

    assert new.stages.operator.added_later == new.data.generate.added_later == 7
    for spec in SPECS.values():
        assert spec.config_hash(new) == spec.config_hash(cfg)
        assert spec.data_recipe(new) == spec.data_recipe(cfg)
    assert fingerprint.evaluation_hash(new, later(settings)) == fingerprint.evaluation_hash(cfg, settings)


def test_a_value_that_differs_from_its_default_does():
    cfg = config("smoke", "stages.operator.weight_decay=0.5")

    moved = [name for name, spec in SPECS.items() if spec.config_hash(cfg) != spec.config_hash(config())]

    assert moved == ["operator"]
    assert SPECS["operator"].data_recipe(cfg) == SPECS["operator"].data_recipe(config())
    assert SPECS["operator"].data_recipe(config("smoke", "data.test=5")) != SPECS["operator"].data_recipe(cfg)


def test_a_value_that_is_written_out_counts_like_its_default():
    spelled_out = config("smoke", "stages.operator.weight_decay=1e-5", "data.reduced_resolution=1")

    assert [spec.config_hash(spelled_out) for spec in SPECS.values()] == [
        spec.config_hash(config()) for spec in SPECS.values()
    ]


TUNING = (
    "min_batch_size",
    "initial_share",
    "tuned_share",
    "tuned_unroll",
    "tuned_members",
    "tune_operator",
    "crps_alpha",
)
"""Fields of consistency_distill that came after the first edition."""


def without_later(values):
    """A config without what came after the first edition."""
    later: dict[str, tuple[str, ...]] = {
        "data": ("layout", "parameters", "repeats", "in_memory_gb"),
        "operator": ("network", "options", "normalise", "shift"),
    }
    later["steady_data"] = ("known",)
    later |= {"denoiser": ("network", "options", "residual"), "prior": ("network", "options")}
    for section, names in later.items():
        for name in names:
            del values[section][name]
    for stage in values["stages"].values():
        del stage["init_from"]
    for name in TUNING:
        del values["stages"]["consistency_distill"][name]
    for name in ("objective", "members", "tuned_share"):
        del values["stages"]["steady_prior"][name]
    return values


def first_dump(data, exclude):
    """As the first edition dumped it: a download had an address and a sha256."""
    dumped = data.model_dump(
        mode="json", exclude={*exclude, "layout", "parameters", "repeats", "in_memory_gb", "known"}
    )
    if data.downloads:
        dumped["downloads"] = [{key: one[key] for key in ("url", "sha256")} for one in dumped["downloads"]]
    return dumped


@pytest.mark.parametrize("new_fields", [False, True])
@pytest.mark.parametrize("cfg", [config(), config("quickstart"), config("smoke", DOWNLOAD)], ids=["a", "b", "c"])
def test_fingerprints_of_the_first_edition_are_still_read(cfg, new_fields):
    for spec in SPECS.values():
        data = cfg.steady_data if spec.steady else cfg.data
        without = set() if data.downloads else {"downloads"}
        exclude = {
            "init_from",
            "objective",
            "members",
            "tuned_share",
            *(TUNING if spec.name == "consistency_distill" else ()),
        }
        old = {
            "seed": cfg.seed,
            "arch": dict(spec.arch(cfg)),
            "settings": cfg.stages.of(spec.name).model_dump(mode="json", exclude=exclude),
            "data": first_dump(data, without),
        }
        recipe: dict[str, Any] = {
            "data": first_dump(data, {"files"} | (without or {"generate"})),
            "n_files": len(data.files),
        }
        if not data.downloads:
            recipe["seed"] = cfg.seed
        now = later(cfg) if new_fields else cfg

        assert spec.is_config_hash(old_hash(old, 16), now)
        assert spec.is_data_recipe(old_hash(recipe, 16), now)
        assert not spec.is_config_hash(old_hash({**old, "seed": 7}, 16), now)
        assert not spec.is_data_recipe(old_hash({**recipe, "n_files": 7}, 16), now)


def test_an_evaluation_of_the_first_edition_is_still_read():
    cfg, settings = config(), EvalConfig(members=4)
    apart = {"runtime", "checkpoint", "tracking", "evaluations", "training"}
    made = settings.model_dump(
        mode="json", exclude={"teacher_rollouts", "peers", "given_frames", "solver_trajectories"}
    )
    old = old_hash([made, without_later(cfg.model_dump(mode="json", exclude=apart))])

    assert fingerprint.is_evaluation_hash(old, later(cfg), later(settings))
    assert not fingerprint.is_evaluation_hash(old, cfg, EvalConfig(members=5))


@pytest.mark.parametrize("key", ["adamw_betas", "cond_width"])
def test_constants_that_shape_a_result_are_in_the_fingerprint(monkeypatch, key):
    cfg, spec = config(), SPECS["operator"]
    before = spec.config_hash(cfg)

    monkeypatch.setitem(constants.CONSTANTS, "operator", {**constants.CONSTANTS["operator"], key: (0.5, 0.5)})

    assert spec.config_hash(cfg) != before


def test_no_default_changes_without_a_new_version():
    recorded = json.loads((ROOT / "tests" / "data" / f"defaults_v{fingerprint.VERSION}.json").read_text("utf-8"))
    now = {"pipeline": PipelineConfig().model_dump(mode="json"), "evaluation": EvalConfig().model_dump(mode="json")}

    assert not differing(recorded, now), "raise fingerprint.VERSION, read the old one, and record the new defaults"


def differing(recorded, now, where=""):
    if isinstance(recorded, dict):
        return [item for key, value in recorded.items() for item in differing(value, now[key], f"{where}.{key}")]
    return [] if recorded == now else [where]
