"""Reading a config from YAML and `--set` overrides; what is wrong with it, in one line."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from ups_models.config.faults import Fault, fault_of
from ups_models.config.section import Section
from ups_models.errors import ConfigError
from ups_models.reading import YAML_LIMIT, Unparsable, Unreadable, parse_yaml, read_text
from ups_models.wording import shortened, shown

C = TypeVar("C", bound=Section)
LONGEST_KEY = 16


def load_config(path: Path, overrides: Sequence[str] = (), *, schema: type[C]) -> C:
    """Read a YAML file into `schema`, after `overrides` like "latent.dim=64".

    Raises ConfigError: one line with the file, the key, what is wrong, and the nearest valid key.
    """
    raw = _read_yaml(path)
    for override in overrides:
        _forget_spellings(raw, override.partition("=")[0], schema)
    for override in overrides:
        _apply_override(raw, override)
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_one_line(path, fault_of(error), schema)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = parse_yaml(read_text(path, limit=YAML_LIMIT))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; the shipped ones are in configs/") from None
    except Unreadable as error:
        raise ConfigError(
            f"{path}: cannot be read as a text file ({error.reason}); name another with --config"
        ) from None
    except Unparsable as error:
        where = f"{path}:{error.line}" if error.line else str(path)
        raise ConfigError(f"{where}: invalid YAML: {shortened(error.reason, 300)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds a {type(raw).__name__}, but a config is a mapping of sections")
    return raw


def _forget_spellings(raw: dict[str, Any], key: str, schema: type[Section]) -> None:
    """Take a key that is overridden out of what the file says, whichever of its names that has."""
    *parents, last = key.split(".")
    try:
        known = _keys_at(schema, parents).items()
        for name in parents:
            raw = raw[name]
        for spelling in next((names for names in known if last in names), ()):
            raw.pop(spelling, None)
    except (KeyError, StopIteration, TypeError, AttributeError):  # what is wrong with either is said where it is used
        return


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {shortened(override)}: write it as key=value, for example --set latent.dim=64")
    try:
        value = parse_yaml(text)
    except Unparsable:
        raise ConfigError(f"--set {shortened(override)}: {shown(text)} is no valid YAML value") from None
    *parents, last = key.split(".")
    if len(parents) > LONGEST_KEY:
        raise ConfigError(f"--set {shortened(override)}: no key of a config has that many parts")
    section = raw
    for name in parents:
        section[name] = dict(section.get(name) or {}) if isinstance(section.get(name) or {}, dict) else {}
        section = section[name]
    section[last] = value


def _one_line(path: Path, fault: Fault, schema: type[Section]) -> str:
    key = ".".join(map(shortened, fault.location))
    if fault.is_unknown_key:
        *parents, name = fault.location
        valid = _keys_at(schema, parents)
        renamed = valid.pop(name, name)
        if renamed != name:
            return f"{path}: {key} is the former name of {'.'.join([*parents, renamed])}; give one of them"
        near = difflib.get_close_matches(name, valid.values(), n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*parents, near[0]])}?" if near else f"valid here: {', '.join(valid.values())}"
        return f"{path}: unknown key {key}; {hint}"
    message = fault.message[:1].lower() + fault.message[1:]
    given = f" (given: {shown(fault.given)})" if key and not isinstance(fault.given, dict) else ""
    more = f"; and {fault.others} more" if fault.others else ""
    return f"{path}: {key + ': ' if key else ''}{message}{given}{more}"


def _keys_at(schema: type[Section], loc: Sequence[str]) -> dict[str, str]:
    """The keys of a section, by the names of their fields."""
    model: Any = schema
    for name in loc:
        if name.isdecimal():
            continue  # a place in a list, whose items are all alike
        annotation = model.model_fields[name].annotation
        options = get_args(annotation) or (annotation,)
        sections = (option for option in options if isinstance(option, type) and issubclass(option, Section))
        model = next(sections, None) or model.settings
    return {name: field.validation_alias or name for name, field in model.model_fields.items()}
