"""Every text that a run reads, made up by somebody: no JSON, values of another type, no file at all."""

import copy
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.cli.views.launches import launch_table
from flows.cli.views.status import status_json, status_table
from harness.trust.cases import Case, Reader, changed
from tasks.services.checkpoints.sets import verify_set
from tasks.services.data.digests import digest_in
from tasks.services.rental.costs import costs_of
from tasks.services.rental.journal import Journal
from tasks.services.rental.launches import in_journal
from tasks.services.run.attempts import ChainRun, Duplicate, GaveUp, backoff_before, entries
from tasks.services.run.history import History
from tasks.services.run.lock import is_owned, owned, owner_message
from tasks.services.run.paths import RunDir
from tasks.services.run.status import read_status, text_of
from ups_models.config.loading import load_config
from ups_models.config.schema import PipelineConfig
from ups_models.evaluation.result import read_result

SHA = "ab" * 32
STATUS: dict[str, Any] = {
    "schema_version": 1,
    "created_at": "2026-01-01T00:00:00Z",
    "stages": {
        "operator": {
            "status": "completed",
            "checkpoint": "operator_ema.pt",
            "completed_at": "2026-01-01T00:00:00Z",
            "step": 3,
            "seconds": 1.5,
            "files": {"operator_ema.pt": {"sha256": SHA, "bytes": 10}},
            "inputs": {"seed": "0"},
            "arch": {"latent_dim": 8},
            "owner": {"pid": 1, "host": "h", "started_at": "now"},
        }
    },
    "evaluations": {"small_eval": {"status": "failed", "error_message": "x"}},
    "wandb": {"id": "r", "url": "https://host/r"},
    "upload": {"version": "v1"},
}
ENTRIES: dict[str, list[dict[str, Any]]] = {
    "metrics.jsonl": [{"stage": "operator", "step": step, "loss": 0.5, "lr": 1e-3} for step in range(3)],
    "attempts.jsonl": [
        {"chain": "c", "attempt": 1, "run": "a", "event": "began", "place": "", "time": 1.0},
        {"chain": "c", "attempt": 1, "run": "a", "event": "failed", "place": "", "time": 2.0, "error": "x"},
    ],
    "rented.jsonl": [
        {"event": "began", "generation": 0, "time": 1.0, "job": {"run": "r"}},
        {
            "event": "renting",
            "generation": 1,
            "time": 2.0,
            "label": "l",
            "usd_per_hour": 0.5,
            "offer": {"machine_id": 7},
        },
        {"event": "rented", "generation": 1, "time": 3.0, "id": 12},
        {"event": "excluded", "generation": 1, "time": 3.5},
        {"event": "given back", "generation": 1, "time": 4.0},
    ],
}
OWNER = {"pid": 1, "host": "h", "started_at": "now"}
RESULT: dict[str, Any] = {
    "schema_version": 2,
    "name": "small_eval",
    "one_step": {"operator": {"nrmse": 0.1}},
    "checks": [{"name": "c", "value": 0.1, "bound": 1.0}],
    "checkpoints": {"operator": {"file": "operator_ema.pt", "sha256": SHA}},
}
CONFIG = "seed: 1\nlatent: {dim: 8, tokens: 16}\ndata: {points: 64, files: [a.hdf5]}\nstages: {operator: {epochs: 2}}\n"
VALUES: list[Any] = [
    None, True, -1, 10**30, 1e308, "", "\x1b[31mred\nline", "a\0b", "\ud800", "x" * 100_000, [], {}, [[]], {"": {}},
    0.5, "../../etc/passwd",
]  # fmt: skip
RAW = [
    b"", b"{", b"\xff\xfe", b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"a":' * 100_000, b'"' + b'\\"' * 100_000, b"null",
    b"1", b"[]", b"1e999", b"NaN", b"9" * 5000, b'{"a":1,"a":2}', b'"\\ud800"', b"\0" * 100,
    b'{"schema_version": 1e999}', b'{"stages": {"\\u001b[31m": {}}}', b"{}\n" * 10_000, b"a: 1",
]  # fmt: skip
YAML = [
    b"- a", b"!!int abc", b"seed: !!int abc", b"seed: !!python/object:os.system x", b"&a [*a]", b"seed: 2001-99-99",
    b"seed: " + b"1:" * 3000 + b"1.0", b"seed: 0x" + b"f" * 100_000, b"seed: !!binary x", b"? {a: 1}\n: 2", b"*b",
    b'data: {files: ["a\\0b"]}', b"%YAML 9.9\n---\na", b"latent: !!set x", b"latent: !!map [a]", b"{\x07: 1}",
    b"a0: &a0 [x, x, x, x, x, x, x, x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 8)) for i in range(1, 12))
    + b"seed: *a11",
]  # fmt: skip


def texts(folder: Path, n: int, seed: int) -> Iterator[Case]:
    """Every text that a run reads: as bytes that are none, as values of another type, as no file at all."""
    rng = random.Random(seed)
    readers = list(_readers().items())
    for number in range(n):
        name, (valid, read) = readers[number % len(readers)]
        run = folder / f"text{number}"
        path = run / name
        path.parent.mkdir(parents=True)
        what = _write_hostile(path, valid, rng, (number // len(readers)) % 4)
        yield Case(f"text {number}: {name} {what}", path, read)


def _write_hostile(path: Path, valid: Any, rng: random.Random, kind: int) -> str:
    if kind == 0:
        return _no_file(path, rng)
    if kind == 1:
        raw = rng.choice(YAML + RAW if path.suffix == ".yaml" else RAW)
        path.write_bytes(raw)
        return f"as {raw[:30]!r}"
    if isinstance(valid, str):
        path.write_bytes(changed(valid.encode(), rng))
        return "changed"
    parts = copy.deepcopy(valid if isinstance(valid, list) else [valid])
    place, value = _replace_one(rng.choice(parts), rng)
    path.write_text("".join(json.dumps(part) + "\n" for part in parts), encoding="utf-8")
    return f"with {place} as {repr(value)[:30]}"


def _no_file(path: Path, rng: random.Random) -> str:
    match rng.randrange(4):
        case 0:
            os.mkfifo(path)
            return "as a named pipe"
        case 1:
            path.symlink_to("/dev/zero")
            return "as a link to a device"
        case 2:
            (path.parent / "kept").write_text("{}", encoding="utf-8")
            path.symlink_to("kept")
            return "as a link"
        case _:
            path.mkdir()
            return "as a folder"


def _replace_one(value: Any, rng: random.Random) -> tuple[str, Any]:
    """Put another value somewhere into it."""
    place, new = "", rng.choice(VALUES)
    while True:
        key = rng.choice(list(value))
        place += f".{key}"
        if not isinstance(value[key], dict) or not value[key] or rng.random() < 0.3:
            value[key] = new
            return place, new
        value = value[key]


def _readers() -> dict[str, tuple[Any, Reader]]:
    """By path in a run: its content, and who reads it."""
    return {
        "checkpoints/stage_status.json": (STATUS, _read_status),
        "config.yaml": (CONFIG, lambda path: load_config(path, schema=PipelineConfig)),
        "checkpoints/.owner": (OWNER, _read_owner),
        "set/manifest.json": ({"stage_status.json": {"sha256": SHA, "bytes": 2}}, _read_set),
        "rented.jsonl": (ENTRIES["rented.jsonl"], _read_journal),
        "reports/metrics.jsonl": (ENTRIES["metrics.jsonl"], _read_history),
        "reports/attempts.jsonl": (ENTRIES["attempts.jsonl"], _read_attempts),
        "reports/small_eval.json": (RESULT, lambda path: read_result(path).to_json()),
        "data/.a.hdf5.digest.json": ({"sha256": SHA, "stamp": [1, 2, 3, 4]}, _read_digest),
    }


def _read_journal(path: Path) -> None:
    known = in_journal(path)
    costs_of(known, Journal(path).spent_usd())
    launch_table([(one, None) for one in known])


def _read_status(path: Path) -> None:
    text_of(read_status(path))
    run = RunDir(path.parent.parent, path.parent)
    status_json(run).encode()
    table = status_table(run)
    if len(table) > 20_000 or "\x1b" in table:
        raise AssertionError("the table shows values in full")


def _read_owner(path: Path) -> None:
    run = RunDir.of(path.parent.parent, Path("checkpoints"))
    owner_message(run).encode()
    is_owned(run)
    with owned(run):
        pass


def _read_set(path: Path) -> None:
    (path.parent / "stage_status.json").write_text("{}", encoding="utf-8")
    verify_set(path.parent, PipelineConfig(), "a set")


def _read_history(path: Path) -> None:
    history = History(RunDir.of(path.parent.parent, Path("checkpoints")))
    for rows in history.read().values():
        float(rows[-1]["loss"])
    history.append("operator", {"step": 9, "loss": 0.1})
    if 9 not in {row["step"] for row in history.read()["operator"]}:
        raise AssertionError("a new row is lost")


def _read_attempts(path: Path) -> None:
    try:
        backoff_before(entries(path, "c"), ChainRun("c", "b", 2, 9, 9), "operator:3", time.time())
    except (GaveUp, Duplicate):
        return


def _read_digest(path: Path) -> None:
    data = path.with_name("a.hdf5")
    data.write_bytes(b"x")
    digest_in(data, keep=True)
