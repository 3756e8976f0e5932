"""Prefect plugin, where enabled: `prefect deployment run train-pipeline` means `train-pipeline/train-pipeline`."""

import sys
from collections.abc import Sequence

from prefect.plugins import HookContext, register_hook

PREFECT_PLUGIN_API_REQUIRES = ">=0.1,<1"
FULL_NAMES = {
    "train-pipeline": "train-pipeline/train-pipeline",
    "evaluate-only": "train-pipeline/evaluate-only",
    "train-on-vast": "train-on-vast/train-on-vast",
}


@register_hook
def setup_environment(*, ctx: HookContext) -> None:
    """Called while Prefect is imported, before its command line is read."""
    sys.argv[1:] = with_full_name(sys.argv[1:])


def with_full_name(arguments: Sequence[str]) -> list[str]:
    """The arguments of `prefect`, with the short name of one of our deployments replaced by its full name."""
    words = list(arguments)
    if words[:1] == ["deployment"] and words[1:2] in (["run"], ["inspect"]):
        short = next((word for word in words[2:] if word in FULL_NAMES), None)
        if short is not None:
            words[words.index(short, 2)] = FULL_NAMES[short]
    return words
