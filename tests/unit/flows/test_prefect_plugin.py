"""Short names of deployments: made whole for `deployment run` and `inspect`, and nothing else is touched."""

import pytest

from flows.prefect.plugin import spelled_out


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
def test_a_short_name_is_spelled_out(given, meant):
    assert spelled_out(given.split()) == meant.split()
