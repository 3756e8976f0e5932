"""Lets `prefect deployment run train-pipeline` mean `train-pipeline/train-pipeline`, from the repository's root."""

import sys
from collections.abc import Sequence

from prefect.plugins import HookContext, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
SHORT = {
    "train-pipeline": "train-pipeline/train-pipeline",
    "evaluate-only": "train-pipeline/evaluate-only",
    "train-on-vast": "train-on-vast/train-on-vast",
}


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Called while Prefect is imported, before its command line is read."""
    sys.argv[1:] = spelled_out(sys.argv[1:])


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """The arguments of `prefect`, with the short name of a deployment of ours made whole."""
    words = list(arguments)
    if words[:1] == ["deployment"] and words[1:2] in (["run"], ["inspect"]):
        short = next((word for word in words[2:] if word in SHORT), None)
        if short is not None:
            words[words.index(short, 2)] = SHORT[short]
    return words
