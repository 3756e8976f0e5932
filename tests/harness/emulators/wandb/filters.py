"""The MongoDB-like filters and the orders with which the W&B client chooses runs and artifact versions."""

import operator
import re
from collections.abc import Callable
from typing import Any, TypeVar

from harness.emulators.wandb.graphql import GraphQLError
from harness.emulators.wandb.store import ArtifactRecord, RunRecord

Record = TypeVar("Record", RunRecord, ArtifactRecord)

FIELDS = {
    "name": "id",
    "display_name": "display_name",
    "displayName": "display_name",
    "state": "state",
    "tags": "tags",
    "group": "group",
    "jobType": "job_type",
    "job_type": "job_type",
    "created_at": "created_at",
    "createdAt": "created_at",
    "heartbeat_at": "heartbeat_at",
    "heartbeatAt": "heartbeat_at",
    "username": "entity",
    "versionIndex": "version",
}
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": lambda found, wanted: bool(wanted in found) if isinstance(found, list) else bool(found == wanted),
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda found, wanted: bool(set(found if isinstance(found, list) else [found]) & set(wanted)),
    "$nin": lambda found, wanted: found not in wanted,
    "$exists": lambda found, wanted: (found is not None) == wanted,
    "$regex": lambda found, wanted: re.search(wanted, str(found)) is not None,
}


def value_of(record: RunRecord | ArtifactRecord, path: str) -> Any:
    """What a record holds under a name such as `state`, `config.lr.value` or `summary_metrics.loss`."""
    section, _, key = path.partition(".")
    if isinstance(record, RunRecord) and section == "config":
        return record.config.get(key.removesuffix(".value"))
    if isinstance(record, RunRecord) and section in {"summary_metrics", "summaryMetrics"}:
        return record.summary.get(key)
    if path not in FIELDS:
        raise GraphQLError(f"this server cannot filter or order by {path}")
    return getattr(record, FIELDS[path], None)


def passes(record: RunRecord, filters: dict[str, Any]) -> bool:
    """Whether a run satisfies a filter."""
    return all(_passes_one(record, key, wanted) for key, wanted in filters.items())


def _passes_one(record: RunRecord, key: str, wanted: Any) -> bool:
    if key == "$and":
        return all(passes(record, part) for part in wanted)
    if key == "$or":
        return any(passes(record, part) for part in wanted)
    if key == "$not":
        return not passes(record, wanted)
    conditions = wanted if isinstance(wanted, dict) else {"$eq": wanted}
    return all(_compares(value_of(record, key), name, value) for name, value in conditions.items())


def _compares(found: Any, name: str, wanted: Any) -> bool:
    if name not in COMPARISONS:
        raise GraphQLError(f"this server does not know the filter {name}")
    missing = found is None and name in {"$gt", "$gte", "$lt", "$lte"}
    return not missing and COMPARISONS[name](found, wanted)


def ordered(records: list[Record], order: str) -> list[Record]:
    """The records by `+field` or `-field`, those made in the same second by their number; nulls come first."""
    path = order.lstrip("+-")
    found = [(value_of(record, path), record.number, record) for record in records]
    found.sort(key=lambda item: (item[0] is not None, item[0] if item[0] is not None else 0, item[1]))
    in_order = [record for _, _, record in found]
    return in_order[::-1] if order.startswith("-") else in_order
