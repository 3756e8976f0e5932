"""What the W&B server of the tests keeps: runs with their streams and files, artifact versions and blobs."""

import base64
import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from harness.emulators.wandb.graphql import GraphQLError

Json = dict[str, Any]
ArtifactState = Literal["PENDING", "COMMITTED", "DELETED"]
INTERNAL_KEYS = ("_wandb", "wandb_version")


def utc_now() -> str:
    """The time as W&B writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def md5_of(content: bytes) -> str:
    """The digest that the client sends with a file: MD5 in base64."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def hex_of(digest: str) -> str:
    """A base64 digest as download addresses hold it."""
    return base64.b64decode(digest).hex()


@dataclass
class RunRecord:
    """One run as its writer left it."""

    entity: str
    project: str
    id: str
    number: int
    created: int = 0
    """How many times wandb.init() named this run."""
    display_name: str = ""
    reported_state: str = "running"
    raw_config: Json = field(default_factory=dict)
    """The config as the client sends it: {key: {"value": …}}, with the client's own `_wandb`."""
    summary: Json = field(default_factory=dict)
    history_lines: list[str] = field(default_factory=list)
    event_lines: list[str] = field(default_factory=list)
    output_lines: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    description: str = ""
    group: str | None = None
    job_type: str | None = None
    exit_code: int | None = None
    preempting: bool = False
    stop_requested: bool = False
    asked_for: bool = False
    """Whether a client has asked, since the last start, if it may resume this run."""
    alerts: list[Json] = field(default_factory=list)
    used_artifacts: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=utc_now)
    heartbeat_at: str = field(default_factory=utc_now)
    heartbeat_s: float = field(default_factory=time.monotonic)
    crash_after_s: float | None = None

    @property
    def key(self) -> str:
        return f"{self.entity}/{self.project}/{self.id}"

    @property
    def storage_id(self) -> str:
        return base64.b64encode(f"Run:v1:{self.id}:{self.project}:{self.entity}".encode()).decode()

    @property
    def state(self) -> str:
        """The state that W&B would show; a run that nobody hears of any more has crashed."""
        live = self.reported_state in {"running", "preempting"}
        silent_s = time.monotonic() - self.heartbeat_s
        return (
            "crashed"
            if live and self.crash_after_s is not None and silent_s > self.crash_after_s
            else self.reported_state
        )

    @property
    def config(self) -> Json:
        """The config as the user gave it."""
        return {key: entry["value"] for key, entry in self.raw_config.items() if key not in INTERNAL_KEYS}

    @property
    def history(self) -> list[Json]:
        """The logged rows in the order of their arrival, each with its `_step`."""
        return [json.loads(line) for line in self.history_lines]

    @property
    def events(self) -> list[Json]:
        """The system metrics in the order of their arrival."""
        return [json.loads(line) for line in self.event_lines]

    def beat(self) -> None:
        self.heartbeat_at, self.heartbeat_s = utc_now(), time.monotonic()

    def is_begun_by(self, given: Json) -> bool:
        """Whether a request comes from wandb.init(), which asks if it may resume or names its host, or follows an end.

        The client also sends its config in the course of a run: that is no new beginning.
        """
        return self.asked_for or self.exit_code is not None or bool(given.get("host") or given.get("program"))

    def start(self) -> None:
        """A process has begun, or resumed, to write this run."""
        self.created += 1
        self.reported_state, self.exit_code = "running", None
        self.asked_for = self.preempting = self.stop_requested = False
        self.beat()

    def stream(self, body: Json) -> None:
        """Take one file_stream request: lines at their offset, the summary, and at the end the exit code."""
        self.beat()
        for name, chunk in (body.get("files") or {}).items():
            self._take_chunk(name, chunk)
        if body.get("preempting"):
            self.preempting, self.reported_state = True, "preempting"
        if body.get("complete"):
            self.exit_code = int(body.get("exitcode") or 0)
            failed = "preempted" if self.preempting else "failed"
            self.reported_state = failed if self.exit_code else "finished"

    def _take_chunk(self, name: str, chunk: Json) -> None:
        streams = {
            "wandb-history.jsonl": self.history_lines,
            "wandb-events.jsonl": self.event_lines,
            "output.log": self.output_lines,
        }
        content, offset = chunk["content"], int(chunk.get("offset") or 0)
        if name == "wandb-summary.json":
            self.summary = json.loads(content[-1])
        elif name in streams:
            streams[name][offset : offset + len(content)] = content  # a repeated request changes nothing

    def change(self, given: Json) -> None:
        """Take the fields of an upsertBucket request that were given."""
        names = {"displayName": "display_name", "groupName": "group", "jobType": "job_type"}
        for key in ("displayName", "groupName", "jobType", "notes", "description", "tags"):
            if given.get(key) is not None:
                setattr(self, names.get(key, key), given[key])
        if given.get("config") is not None:
            self.raw_config = json.loads(given["config"])
        if given.get("summaryMetrics") is not None:
            self.summary = json.loads(given["summaryMetrics"])
        if given.get("state") is not None:
            self.reported_state = given["state"]


@dataclass
class ManifestEntry:
    """One file of an artifact version."""

    path: str
    digest: str
    size: int
    ref: str | None = None
    content: bytes | None = None
    """None for a reference, and for a file whose bytes never arrived."""


@dataclass
class ArtifactRecord:
    """One version of an artifact, visible by name from its commit to its deletion."""

    entity: str
    project: str
    collection: str
    type: str
    number: int
    digest: str
    state: ArtifactState = "PENDING"
    version: int | None = None
    wanted_aliases: list[str] = field(default_factory=list)
    """The aliases that move here at the commit."""
    aliases: list[str] = field(default_factory=list)
    metadata: Json = field(default_factory=dict)
    description: str | None = None
    tags: list[str] = field(default_factory=list)
    ttl_s: int = -2
    """-2: none. -1: that of the project."""
    client_id: str | None = None
    manifest_bytes: bytes | None = None
    history_step: int | None = None
    logged_by: list[str] = field(default_factory=list)
    used_by: list[str] = field(default_factory=list)
    created_at: str = field(default_factory=utc_now)

    @property
    def id(self) -> str:
        return base64.b64encode(f"Artifact:{self.number}".encode()).decode()

    @property
    def name(self) -> str:
        """collection:vN, or the bare collection while there is no version."""
        return self.collection if self.version is None else f"{self.collection}:v{self.version}"

    @property
    def manifest(self) -> Json:
        """The uploaded manifest, empty while there is none."""
        return json.loads(self.manifest_bytes) if self.manifest_bytes else {}

    @property
    def collection_key(self) -> str:
        return f"{self.entity}/{self.project}/{self.collection}"

    def entries(self, blobs: dict[str, bytes]) -> dict[str, ManifestEntry]:
        """The files of this version by their path."""
        found = {}
        for path, raw in sorted(self.manifest.get("contents", {}).items()):
            content = None if raw.get("ref") else blobs.get(f"{self.entity}/{self.project}/{raw['digest']}")
            found[path] = ManifestEntry(path, raw["digest"], int(raw.get("size") or 0), raw.get("ref"), content)
        return found


class Store:
    """Every run and artifact. The caller holds the server's lock."""

    def __init__(self) -> None:
        self.runs: dict[str, RunRecord] = {}
        self.artifacts: dict[str, ArtifactRecord] = {}
        """By id, in the order of their creation."""
        self.blobs: dict[str, bytes] = {}
        """By entity/project/digest: what was uploaded whole, and is never asked for again."""
        self.birth: dict[str, str] = {}
        """The artifact with which a blob came, by the blob's key."""
        self.projects: dict[str, str] = {}
        self.types: dict[str, list[str]] = {}
        self.crash_after_s: float | None = None
        self.numbers = itertools.count(1)

    # ------------------------------------------------------------------------------------------- runs

    def open_project(self, entity: str, project: str) -> None:
        self.projects.setdefault(f"{entity}/{project}", utc_now())

    def upsert_run(self, given: Json) -> tuple[RunRecord, bool]:
        """Create or change a run; the flag says whether it is new."""
        if given.get("id"):
            run, inserted = self.run_by_storage_id(given["id"]), False
        else:
            run, inserted = self._open_run(given)
        if given.get("name") and (inserted or run.is_begun_by(given)):
            run.start()
        run.change(given)
        return run, inserted

    def _open_run(self, given: Json) -> tuple[RunRecord, bool]:
        entity, project = given["entityName"], given.get("modelName") or "uncategorized"
        run_id = given.get("name") or f"run{next(self.numbers)}"
        self.open_project(entity, project)
        key = f"{entity}/{project}/{run_id}"
        inserted = key not in self.runs
        if inserted:
            run = RunRecord(entity, project, run_id, next(self.numbers), crash_after_s=self.crash_after_s)
            run.display_name = f"run-{run.number}"
            self.runs[key] = run
        return self.runs[key], inserted

    def run_by_storage_id(self, storage_id: str) -> RunRecord:
        for run in self.runs.values():
            if run.storage_id == storage_id:
                return run
        raise GraphQLError(f"run not found: {storage_id}")

    def delete_run(self, storage_id: str, with_artifacts: bool) -> None:
        run = self.run_by_storage_id(storage_id)
        del self.runs[run.key]
        for artifact in self.artifacts.values():
            if with_artifacts and run.key in artifact.logged_by:
                self.discard(artifact)

    # -------------------------------------------------------------------------------------- artifacts

    def artifact(self, artifact_id: str) -> ArtifactRecord:
        try:
            return self.artifacts[artifact_id]
        except KeyError as error:
            raise GraphQLError(f"artifact not found: {artifact_id}") from error

    def versions(self, collection_key: str) -> list[ArtifactRecord]:
        """The committed versions of a collection, oldest first."""
        found = [a for a in self.committed() if a.collection_key == collection_key]
        return sorted(found, key=lambda artifact: artifact.version or 0)

    def committed(self) -> Iterator[ArtifactRecord]:
        return (artifact for artifact in self.artifacts.values() if artifact.state == "COMMITTED")

    def find(self, collection_key: str, alias: str) -> ArtifactRecord | None:
        """A committed version by vN, alias or id."""
        for artifact in self.versions(collection_key):
            if alias in {f"v{artifact.version}", artifact.id, *artifact.aliases}:
                return artifact
        return None

    def create_artifact(self, given: Json) -> ArtifactRecord:
        """A new pending version, or the committed one with the same digest."""
        (collection,) = given.get("artifactCollectionNames") or [given.get("artifactCollectionName")]
        key = f"{given['entityName']}/{given['projectName']}/{collection}"
        aliases = [alias["alias"] for alias in given.get("aliases") or []]
        run_key = f"{given['entityName']}/{given['projectName']}/{given.get('runName')}"
        if given.get("enableDigestDeduplication"):
            for twin in self.versions(key):
                if twin.digest == given["digest"]:
                    self.move_aliases(twin, aliases)
                    self._note(twin.logged_by, run_key)
                    return twin
        self.open_type(given["entityName"], given["projectName"], given["artifactTypeName"])
        artifact = ArtifactRecord(
            given["entityName"],
            given["projectName"],
            collection,
            given["artifactTypeName"],
            next(self.numbers),
            given["digest"],
            wanted_aliases=aliases,
            metadata=json.loads(given.get("metadata") or "{}"),
            description=given.get("description"),
            tags=[tag["tagName"] for tag in given.get("tags") or []],
            ttl_s=given.get("ttlDurationSeconds") or -2,
            client_id=given.get("clientID"),
            history_step=given.get("historyStep"),
            logged_by=[run_key],
        )
        self.artifacts[artifact.id] = artifact
        return artifact

    def open_type(self, entity: str, project: str, name: str) -> None:
        self.open_project(entity, project)
        self._note(self.types.setdefault(f"{entity}/{project}", []), name)

    @staticmethod
    def _note(names: list[str], name: str) -> None:
        if name not in names:
            names.append(name)

    def commit(self, artifact: ArtifactRecord) -> None:
        """Give a complete version its number and its aliases; until here nobody finds it by name."""
        if artifact.state == "COMMITTED":
            return
        missing = [e.path for e in artifact.entries(self.blobs).values() if e.ref is None and e.content is None]
        if artifact.manifest_bytes is None or missing:
            raise GraphQLError(f"artifact {artifact.collection} is incomplete: missing {missing or 'the manifest'}")
        artifact.version = self._next_version(artifact.collection_key)
        artifact.state = "COMMITTED"
        self.move_aliases(artifact, artifact.wanted_aliases)

    def _next_version(self, collection_key: str) -> int:
        used = [a.version for a in self.artifacts.values() if a.collection_key == collection_key]
        return max((version + 1 for version in used if version is not None), default=0)

    def move_aliases(self, artifact: ArtifactRecord, aliases: Iterable[str]) -> None:
        """Point the aliases at this version and at no other of its collection."""
        for alias in aliases:
            for other in self.versions(artifact.collection_key):
                if alias in other.aliases:
                    other.aliases.remove(alias)
            artifact.aliases.append(alias)

    def delete_artifact(self, artifact: ArtifactRecord, with_aliases: bool) -> None:
        if artifact.aliases and not with_aliases:
            raise GraphQLError(f"artifact {artifact.name} has aliases {artifact.aliases}: delete them first")
        self.discard(artifact)

    @staticmethod
    def discard(artifact: ArtifactRecord) -> None:
        artifact.state, artifact.aliases = "DELETED", []
