"""The form of train-pipeline in Prefect's UI: the same request, with one `mode` and the shipped configs as choices."""

from collections.abc import Mapping
from typing import Any

from flows import shipped

MODES = {"resume": "auto_resume", "retrain": "force_train", "evaluate only": "skip_training"}
"""What may be done, and the switch that says so on the command line and in schedules made earlier."""
MODE = {
    "title": "Mode",
    "type": "string",
    "enum": [*MODES],
    "description": "resume: skip what is completed and go on with what was interrupted; retrain: train again and "
    "replace what the run directory holds; evaluate only: train nothing. Empty: a run that was begun is refused.",
}
WORDS = {
    "config": "Config of the pipeline.",
    "set": "Overrides of config values, such as latent.dim=64.",
    "force": "Let the checkpoints of that W&B run replace newer ones in the run directory.",
}
"""Descriptions that name no flag of the command line."""


def with_switches(given: Any) -> Any:
    """A request as it was given, its `mode` as the switch that it stands for: where there is one, it decides."""
    if not isinstance(given, Mapping) or given.get("mode") is None:
        return {key: value for key, value in given.items() if key != "mode"} if isinstance(given, Mapping) else given
    mode = given["mode"]
    if mode not in MODES:
        raise ValueError(f"mode: {mode!r} is none; use one of {', '.join(MODES)}")
    rest = {key: value for key, value in given.items() if key not in ("mode", *MODES.values())}
    return {**rest, MODES[mode]: True}


def form_of(properties: Mapping[str, Any]) -> dict[str, Any]:
    """The properties of the form, in the order of the request: `mode` stands where the switches are."""
    form: dict[str, Any] = {}
    for name, described in properties.items():
        if name in MODES.values():
            form.setdefault("mode", MODE)
            continue
        shown = {key: value for key, value in described.items() if key != "flag"}
        form[name] = {**shown, "description": WORDS.get(name, shown.get("description", ""))}
        if name.endswith("config"):
            form[name] = _chosen(form[name], evaluations=name != "config")
    return form


def accepted_beside(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What the server lets pass though the form does not show it: switches in schedules made earlier."""
    return {f"^{name}$": {"type": "boolean"} for name in MODES.values() if name in properties}


def shipped_configs(*, evaluations: bool) -> list[str]:
    """The configs that come with the software, of evaluations or of the pipeline."""
    found = sorted(shipped("configs").glob("*.yaml"))
    return [f"configs/{path.name}" for path in found if path.stem.endswith("_eval") == evaluations]


def _chosen(described: dict[str, Any], *, evaluations: bool) -> dict[str, Any]:
    """One of the shipped configs, or any path."""
    rest = {key: value for key, value in described.items() if key not in ("type", "format")}
    choice = {"title": "Shipped", "type": "string", "enum": shipped_configs(evaluations=evaluations)}
    return {**rest, "anyOf": [choice, {"title": "Path", "type": "string", "format": "path"}]}
