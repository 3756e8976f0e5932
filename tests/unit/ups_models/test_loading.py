"""Configs as files and overrides: what is taken, and what is said of what is not."""

import pytest

from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.errors import ConfigError


@pytest.fixture
def config(tmp_path):
    """Load a config of this text."""

    def load(text, *overrides):
        path = tmp_path / "c.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_config(path, overrides, schema=PipelineConfig)

    return load


@pytest.mark.parametrize("text", ["", "# nothing but a comment"])
def test_an_empty_file_is_every_default(config, text):
    assert config(text) == PipelineConfig()


def test_an_override_makes_the_sections_that_it_needs(config):
    assert config("", "stages.operator.epochs=7").stages.operator.epochs == 7
    assert config("stages:", "stages.operator.epochs=7").stages.operator.epochs == 7


def test_an_override_leaves_its_neighbours(config):
    cfg = config("stages: {operator: {epochs: 3, warmup_steps: 2}}", "stages.operator.epochs=7")

    assert (cfg.stages.operator.epochs, cfg.stages.operator.warmup_steps) == (7, 2)


def test_the_last_of_two_overrides_counts(config):
    assert config("", "seed=1", "seed=2").seed == 2


def test_the_value_of_an_override_is_yaml(config):
    cfg = config("", "data.files=[a.hdf5, b.hdf5]")

    assert [path.name for path in cfg.data.files] == ["a.hdf5", "b.hdf5"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("latent.dim", "write it as key=value, for example --set latent.dim=64"),
        ("=3", "write it as key=value"),
        ("seed=[1", "'[1' is no valid YAML value"),
        ("seed.deeper=1", "seed: "),
        ("nonsense=1", "unknown key nonsense"),
    ],
)
def test_an_override_that_says_nothing_is_refused(config, override, said):
    with pytest.raises(ConfigError) as caught:
        config("", override)

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(config):
    with pytest.raises(ConfigError, match=r"c\.yaml: cannot be read as a text file"):
        config(b"\xff\xfe\x00")


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as a text file"):
        load_config(tmp_path, schema=PipelineConfig)


def test_the_line_of_what_is_no_yaml_is_named(config):
    with pytest.raises(ConfigError, match=r"c\.yaml:2: invalid YAML: "):
        config("seed: 1\nlatent: }")


def test_a_key_like_no_other_is_answered_with_all_that_there_are(config):
    with pytest.raises(ConfigError, match=r"unknown key latent\.qqq; valid here: dim, tokens"):
        config("latent: {qqq: 1}")


def test_all_faults_are_counted_and_the_first_is_said(config):
    with pytest.raises(ConfigError, match=r"latent\.dim: .* \(given: 0\); and 1 more$"):
        config("latent: {dim: 0, tokens: 0}")


def test_a_key_that_is_given_twice_at_any_depth_is_refused(config):
    with pytest.raises(ConfigError, match="key 'dim' is given twice"):
        config("latent: {dim: 8, dim: 16}")
