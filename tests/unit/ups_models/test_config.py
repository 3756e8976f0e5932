"""Config: one schema, one place for defaults, errors that name the remedy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from flows import ROOT
from ups_models.config.loading import load_config
from ups_models.config.schema import EvalConfig, PipelineConfig
from ups_models.errors import ConfigError
from ups_models.stages.spec import SPECS


def sections(model: type[BaseModel], name: str = "") -> list[tuple[str, type[BaseModel]]]:
    found = [(name or model.__name__, model)]
    for key, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found += sections(field.annotation, f"{name}.{key}".strip("."))
    return found


WITHOUT_LOSS = "bench/apebench/"
"""Networks that stand beside published ones, none of which compresses."""
EVALUATIONS = ("small_eval", "full_eval")
SHIPPED = sorted(
    path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.stem not in EVALUATIONS and path.parent.name != "sweeps"
)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_pipeline_configs_are_valid_and_their_latent_state_is_smaller_than_a_field(name):
    cfg = load_config(ROOT / "configs" / f"{name}.yaml", schema=PipelineConfig)

    values = len(cfg.data.problem.channels) * math.prod(cfg.data.grid)
    if name.startswith(WITHOUT_LOSS):
        assert values == cfg.latent.dim * math.prod(cfg.tokens)
        return
    assert values >= (2 if cfg.data.problem.dimensions == 1 else 8) * cfg.latent.dim * math.prod(cfg.tokens)


@pytest.mark.parametrize("name", EVALUATIONS)
def test_the_shipped_evaluation_configs_are_valid(name):
    load_config(ROOT / "configs" / f"{name}.yaml", schema=EvalConfig)


@pytest.mark.parametrize(("name", "model"), [*sections(PipelineConfig), ("EvalConfig", EvalConfig)])
def test_every_field_has_a_default_and_a_meaning(name, model):
    for key, field in model.model_fields.items():
        assert not field.is_required(), f"{name}.{key} has no default"
        assert field.description, f"{name}.{key} does not say what it means"
        assert field.description.endswith("."), f"{name}.{key}: a sentence ends with a period"


@pytest.mark.parametrize(("name", "model"), [*sections(PipelineConfig), ("EvalConfig", EvalConfig)])
def test_every_number_has_a_bound_on_both_sides(name, model):
    for key, schema in model.model_json_schema()["properties"].items():
        for option in schema.get("anyOf", [schema]):
            number = option.get("items", option)
            if number.get("type") in ("integer", "number"):
                lower = {"minimum", "exclusiveMinimum"} & set(number)
                upper = {"maximum", "exclusiveMaximum"} & set(number)
                assert lower, f"{name}.{key} has no lower bound"
                assert upper, f"{name}.{key} has no upper bound"


def test_a_config_cannot_be_changed_after_it_was_checked(smoke):
    with pytest.raises(ValidationError):
        smoke.latent.dim = 16


def test_an_override_by_dotted_key_wins_over_the_file(tmp_path):
    (tmp_path / "c.yaml").write_text("latent: {dim: 8}", encoding="utf-8")

    cfg = load_config(tmp_path / "c.yaml", ["latent.dim=16", "stages.operator.lr=1e-4"], schema=PipelineConfig)

    assert cfg.latent.dim == 16
    assert cfg.stages.operator.lr == 1e-4


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path):
    (tmp_path / "c.yaml").write_text("stages: {operator: {lr: 1e-3}}", encoding="utf-8")

    assert load_config(tmp_path / "c.yaml", schema=PipelineConfig).stages.operator.lr == 1e-3


@given(st.text(alphabet="abcdefgh_", min_size=1, max_size=12))
def test_an_unknown_key_is_never_accepted(tmp_path_factory, key):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(f'latent: {{"{key}": 1}}', encoding="utf-8")

    with pytest.raises(ConfigError, match=rf"unknown key latent\.{key}; "):
        load_config(path, schema=PipelineConfig)


def test_modes_are_those_of_our_networks_alone(tmp_path):
    (tmp_path / "net.py").write_text("Net = None\n", "utf-8")
    settings = ["latent.tokens=8", "operator.modes=9", "denoiser.modes=3"]

    with pytest.raises(ConfigError, match=r"operator\.modes=9 must not exceed 5: of latent\.tokens=8 half and one"):
        load_config(ROOT / "configs" / "smoke.yaml", settings, schema=PipelineConfig)

    own = [*settings, f"operator.network={tmp_path}/net.py:Net"]
    assert load_config(ROOT / "configs" / "smoke.yaml", own, schema=PipelineConfig).operator.modes == 9


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("trajectories=0", r"evaluations\.full_eval\.trajectories: input should be greater than or equal to 1"),
        (
            "trajectoires=4",
            r"unknown key evaluations\.full_eval\.trajectoires; did you mean .*full_eval\.trajectories\?",
        ),
        ("peers=[fnoo]", r"evaluations\.full_eval\.peers\.0: input should be 'fno'"),
    ],
)
def test_settings_of_an_evaluation_are_named_where_they_stand(setting, said):
    with pytest.raises(ConfigError, match=said):
        load_config(ROOT / "configs" / "smoke.yaml", [f"evaluations.full_eval.{setting}"], schema=PipelineConfig)


def test_an_unknown_key_in_a_list_of_sections_is_named(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{downloads: [{{url: http://host/u.hdf5, sha: {'a' * 64}}}]}}", encoding="utf-8")

    with pytest.raises(ConfigError, match=r"unknown key data\.downloads\.0\.sha; did you mean .*\.0\.sha256\?"):
        load_config(path, schema=PipelineConfig)


@pytest.mark.parametrize(
    ("downloads", "said"),
    [
        ("[{url: http://host/u.hdf5}]", r"downloads\.0: .*give the sha256 or the md5 that the file's publisher names"),
        (f"[{{url: 'http://host/42', md5: {'a' * 32}}}]", r"the address ends in 42, .*: give file: NAME\.hdf5"),
        (f"[{{url: 'http://host/42', file: ../x, md5: {'a' * 32}}}]", r"downloads\.0\.file: "),
        (f"[{{url: 'http://host/u.h5', md5: {'a' * 64}}}]", r"downloads\.0\.md5: "),
        (
            f"[{{url: 'http://a/u.h5', md5: {'a' * 32}}}, {{url: 'http://b/u.h5', md5: {'b' * 32}}}]",
            r"two downloads get the name u\.h5: give one of them another file:",
        ),
    ],
)
def test_a_download_that_cannot_be_checked_or_named_is_refused(downloads, said):
    with pytest.raises(ConfigError, match=said):
        load_config(ROOT / "configs" / "smoke.yaml", [f"data.downloads={downloads}"], schema=PipelineConfig)


RENAMED = [
    ("stages.operator.initial_share", "stages.operator.initial_fraction"),
    ("stages.steady_prior.hide_coefficient", "stages.steady_prior.coefficient_dropout"),
]


@pytest.mark.parametrize(("former", "key"), RENAMED)
def test_a_renamed_key_is_read_by_both_names_and_hashed_by_the_former(tmp_path, former, key):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3", encoding="utf-8")

    one, other = (load_config(path, [f"{name}=0.25"], schema=PipelineConfig) for name in (former, key))

    dumped = one.model_dump(mode="json")["stages"]
    assert one == other != load_config(path, schema=PipelineConfig)
    assert dumped[former.split(".")[1]][former.split(".")[2]] == 0.25
    assert PipelineConfig.model_validate(one.model_dump(mode="json")) == one


@pytest.mark.parametrize(("former", "key"), RENAMED)
def test_a_key_given_by_both_its_names_is_refused(tmp_path, former, key):
    path = tmp_path / "c.yaml"
    path.write_text("seed: 3", encoding="utf-8")

    with pytest.raises(ConfigError, match=f"{former} is the former name of {key}; give one of them"):
        load_config(path, [f"{former}=0.25", f"{key}=0.25"], schema=PipelineConfig)


@given(dim=st.integers(1, 64), groups=st.integers(1, 64))
def test_the_latent_dim_must_be_divisible_by_the_scale_groups(dim, groups):
    raw = {"latent": {"dim": dim}, "denoiser": {"scale_groups": groups}}

    if dim % groups:
        with pytest.raises(ValidationError, match="not divisible"):
            PipelineConfig.model_validate(raw)
    else:
        assert PipelineConfig.model_validate(raw).latent.dim == dim


def test_the_hash_of_a_stage_follows_its_own_settings_and_no_other(smoke):
    other = smoke.model_copy(
        update={
            "stages": smoke.stages.model_copy(
                update={"operator": smoke.stages.operator.model_copy(update={"lr": 1e-4})}
            ),
            "runtime": smoke.runtime.model_copy(update={"threads": 2}),
        }
    )

    moved = [name for name, spec in SPECS.items() if spec.config_hash(smoke) != spec.config_hash(other)]

    assert moved == ["operator"]


@pytest.mark.parametrize(("in_file", "override"), [("family", "data.problem"), ("problem", "data.family")])
def test_an_override_replaces_a_renamed_key_by_whichever_name_the_file_has_it(tmp_path, in_file, override):
    path = tmp_path / "a.yaml"
    path.write_text(f"data: {{{in_file}: burgers1d}}\n", encoding="utf-8")

    cfg = load_config(path, [f"{override}=advection1d"], schema=PipelineConfig)

    assert cfg.data.problem.name == "advection1d"


def test_a_parameter_is_known_in_whatever_case_it_is_written():
    said = {"data": {"parameters": {"nu": 0.7}, "generate": {"parameters": [{"nu": 0.1}]}}}

    cfg = PipelineConfig.model_validate(said)

    assert (cfg.data.parameters, cfg.data.values) == ({"Nu": 0.7}, ({"Nu": 0.1},))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([{"Nu": 0.1, "nu": 0.2}], "Nu is given twice, in two spellings"),
        ([0.1, 0.1], "is there twice, and would be one file"),
        ([0.1, {"nu": 0.1}], "is there twice, and would be one file"),
    ],
)
def test_data_that_are_asked_for_twice_are_refused(parameters, message):
    with pytest.raises(ValidationError, match=message):
        PipelineConfig.model_validate({"data": {"generate": {"parameters": parameters}}})
