"""Short names of deployments become full names for `deployment run` and `inspect`; nothing else changes."""

import pytest

from flows.prefect.plugin import with_full_name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("deployment run train-pipeline", "deployment run train-pipeline/train-pipeline"),
        ("deployment run --watch train-pipeline", "deployment run --watch train-pipeline/train-pipeline"),
        ("deployment run evaluate-only", "deployment run train-pipeline/evaluate-only"),
        ("deployment inspect train-on-vast", "deployment inspect train-on-vast/train-on-vast"),
        ("deployment run train-pipeline/train-pipeline", "deployment run train-pipeline/train-pipeline"),
        ("deployment run other", "deployment run other"),
        ("flow-run ls --flow-name train-pipeline", "flow-run ls --flow-name train-pipeline"),
        ("deployment", "deployment"),
        ("", ""),
    ],
)
def test_a_short_name_is_with_full_name(given, meant):
    assert with_full_name(given.split()) == meant.split()
