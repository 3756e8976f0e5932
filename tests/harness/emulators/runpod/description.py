"""The description of RunPod's API (openapi.yaml), and what in a request or an answer does not keep to it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

PATH = Path(__file__).with_name("openapi.yaml")
HERE = "urn:runpod"
Found = tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, str]]
"""A path of the description, an operation on it, and what stands in the path's gaps."""


@cache
def description() -> Mapping[str, Any]:
    """The document."""
    document: Mapping[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))
    return document


def request_faults(method: str, target: str, headers: Mapping[str, str], content: bytes) -> list[str]:
    """What is wrong with a request; nothing where it is as described."""
    address = urlsplit(target)
    found = find(method, address.path)
    if found is None:
        return [f"{method} {address.path} is not described"]
    item, operation, gaps = found
    described = {
        (one["in"], one["name"]): one for one in (*item.get("parameters", ()), *operation.get("parameters", ()))
    }
    faults = [] if headers.get("Authorization", "").startswith("Bearer ") else ["no bearer token in Authorization"]
    for name, text in parse_qsl(address.query, keep_blank_values=True):
        one = described.get(("query", name))
        faults += _faults(one["schema"], _value(text, one)) if one else [f"{name}: no such parameter"]
    faults += [fault for name, text in gaps.items() for fault in _faults(described["path", name]["schema"], text)]
    body = operation.get("requestBody")
    if body is None:
        return [*faults, *(["has a body"] if content else [])]
    kind = headers.get("Content-Type", "").partition(";")[0]
    if kind not in body["content"]:
        return [*faults, f"a body of {kind or 'no type'}"]
    return [*faults, *_json_faults(body["content"][kind]["schema"], content)]


def answer_faults(method: str, target: str, status: int, headers: Mapping[str, str], content: bytes) -> list[str]:
    """What is wrong with an answer; nothing where it is as described."""
    found = find(method, urlsplit(target).path)
    if found is None:
        return []
    responses = found[1]["responses"]
    answer = resolved(responses.get(str(status), responses["default"]))
    if "content" not in answer:
        return ["has a body"] if content else []
    kind = headers.get("Content-Type", "").partition(";")[0]
    if kind not in answer["content"]:
        return [f"a body of {kind or 'no type'}"]
    schema = answer["content"][kind]["schema"]
    return _json_faults(schema, content) if kind.endswith("json") else _faults(schema, content.decode())


def find(method: str, path: str) -> Found | None:
    """The operation of a request; None where none is described."""
    for template, item in description()["paths"].items():
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
        match = re.fullmatch(pattern, path)
        if match and method.lower() in item:
            return item, item[method.lower()], match.groupdict()
    return None


def resolved(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference refers to, or the node itself."""
    if "$ref" not in node:
        return node
    found = description()
    for name in str(node["$ref"]).removeprefix("#/").split("/"):
        found = found[name]
    return found


@cache
def _registry() -> Registry[Any]:
    registry: Registry[Any] = Registry()
    known: Registry[Any] = registry.with_resource(HERE, Resource.from_contents(dict(description()), DRAFT202012))
    return known


def _faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What of a value does not keep to a schema of the document."""
    whole = {"$id": f"{HERE}:part", **json.loads(json.dumps(schema).replace('"#/', f'"{HERE}#/'))}
    validator = Draft202012Validator(whole, registry=_registry())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def _json_faults(schema: Mapping[str, Any], content: bytes) -> list[str]:
    try:
        return _faults(schema, json.loads(content))
    except ValueError as error:
        return [f"no JSON: {error}"]


def _value(text: str, parameter: Mapping[str, Any]) -> Any:
    """The value of a query parameter, by the type that is described."""
    kind = resolved(parameter["schema"]).get("type")
    if kind == "array":
        return text.split(",")
    try:
        return json.loads(text) if kind in ("integer", "boolean") else text
    except ValueError:
        return text
