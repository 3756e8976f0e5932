"""W&B's GraphQL schema over the store, as far as the client's runs, files and artifacts go."""

import fnmatch
import json
import mimetypes
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from harness.emulators.wandb.graphql import Args, GraphQLError, Node, Root, connection
from harness.emulators.wandb.artifacts import ArtifactFields
from harness.emulators.wandb.filters import ordered, passes
from harness.emulators.wandb.store import RunRecord, md5_of

# The classical way of everything: plain console lines, MD5, uncompressed streams, one upload address per file.
FEATURES = (
    "LARGE_FILENAMES",
    "ARTIFACT_TAGS",
    "CLIENT_IDS",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILES",
    "ARTIFACT_COLLECTION_MEMBERSHIP_FILE_DOWNLOAD_HANDLER",
    "USE_ARTIFACT_WITH_ENTITY_AND_PROJECT_INFORMATION",
    "PROJECT_ARTIFACT_COLLECTION_MEMBERSHIP",
    "ARTIFACT_MEMBERSHIP_IN_LINK_ARTIFACT_RESPONSE",
    "TOTAL_COUNT_IN_FILE_CONNECTION",
    "ARTIFACT_COLLECTIONS_FILTERING_SORTING",
    "ARTIFACT_V2_DOWNLOAD_HANDLER_SUPPORTS_ARTIFACT_ID",
    "MARK_RUN_FILES_UPLOADED",
)


class Schema(ArtifactFields):
    """Answers the fields of queries and mutations. Not thread-safe: the server holds its lock."""

    def root(self) -> Root:
        """Every field of a query or a mutation."""
        inputs = {
            "upsertBucket": self.upsert_bucket,
            "deleteRun": self.delete_run,
            "stopRun": self.stop_run,
            "updateRunState": self.update_run_state,
            "notifyScriptableRunAlert": self.alert,
            "createRunFiles": self.create_run_files,
            "markRunFilesUploaded": lambda _given: {"success": True},
            "deleteFiles": self.delete_files,
            "upsertModel": self.upsert_model,
            "createArtifactType": self.create_artifact_type,
            "createArtifact": self.create_artifact,
            "createArtifactManifest": self.create_manifest,
            "updateArtifactManifest": self.update_manifest,
            "createArtifactFiles": self.create_artifact_files,
            "commitArtifact": self.commit_artifact,
            "updateArtifact": self.update_artifact,
            "deleteArtifact": self.delete_artifact,
            "useArtifact": self.use_artifact,
            "addAliases": self.add_aliases,
            "deleteAliases": self.delete_aliases,
            "deleteArtifactSequence": self.delete_collection,
        }
        mutations = {name: partial(self.with_input, answer) for name, answer in inputs.items()}
        return mutations | {
            "viewer": lambda _args: self.user(),
            "serverInfo": lambda _args: self.server_info(),
            "entity": lambda args: self.entity(args.get("name") or self.viewer),
            "organization": lambda _args: None,
            "project": self.project,
            "model": self.project,
            "models": self.projects,
            "artifact": lambda args: self.artifact(self.store.artifact(args["id"])),
            "artifactCollection": self.collection_by_id,
            "clientIDMapping": self.client_id_mapping,
        }

    def with_input(self, answer: Callable[[Args], Node], args: Args) -> Node:
        """Hand a mutation its input; `wandb sync` names no entity where it means the key's own."""
        given = args["input"]
        return answer(given | {"entityName": given.get("entityName") or self.viewer})

    # ------------------------------------------------------------------------------------ server, viewer

    def server_info(self) -> Node:
        return {"features": [{"name": name, "isEnabled": True} for name in FEATURES]}

    def user(self) -> Node:
        name = self.viewer
        return {
            "id": f"user-{name}",
            "entity": name,
            "username": name,
            "name": name,
            "email": f"{name}@localhost",
            "admin": False,
            "flags": "{}",
            "teams": {"edges": []},
            "apiKeys": {"edges": []},
        }

    def entity(self, name: str) -> Node:
        return {
            "__typename": "Entity",
            "id": f"entity-{name}",
            "name": name,
            "available": False,
            "isTeam": False,
            "project": lambda args: self.project({"entityName": name, "name": args.get("name")}),
            "xxhashDigestsEnabled": False,
        }

    # ----------------------------------------------------------------------------------------- projects

    def project(self, args: Args) -> Node | None:
        key = f"{args.get('entityName') or self.viewer}/{args.get('name')}"
        return self.project_node(key) if key in self.store.projects else None

    def projects(self, args: Args) -> Node:
        prefix = f"{args.get('entityName') or self.viewer}/"
        keys = [key for key in self.store.projects if key.startswith(prefix)]
        return connection([self.project_node(key) for key in keys], args)

    def upsert_model(self, given: Args) -> Node:
        key = f"{given.get('entityName') or self.viewer}/{given.get('name')}"
        inserted = key not in self.store.projects
        self.store.open_project(*key.split("/"))
        node = self.project_node(key)
        return {"project": node, "model": node, "inserted": inserted}

    def project_node(self, key: str) -> Node:
        entity, name = key.split("/")
        store = self.store
        number = list(store.projects).index(key) + 1
        return {
            "__typename": "Project",
            "id": f"project-{number}",
            "internalId": str(number),
            "name": name,
            "entityName": entity,
            "entity": lambda _args: self.entity(entity),
            "createdAt": store.projects[key],
            "readOnly": False,
            "isBenchmark": False,
            "user": lambda _args: self.user(),
            "run": lambda args: self.run_or_none(f"{key}/{args['name']}"),
            "bucket": lambda args: self.run_to_resume(f"{key}/{args['name']}"),
            "runCount": lambda args: len(self.matching_runs(key, args)),
            "runs": lambda args: connection([self.run(run) for run in self.matching_runs(key, args)], args),
            "artifactTypes": lambda args: connection(
                [self.artifact_type(key, type_name) for type_name in store.types.get(key, [])], args
            ),
            "artifactType": lambda args: (
                self.artifact_type(key, args["name"]) if args["name"] in store.types.get(key, []) else None
            ),
            "artifactCollections": lambda args: connection(self.collections(key, None), args),
            "artifactCollection": lambda args: self.collection_or_none(f"{key}/{args['name']}"),
            "artifactCollectionMembership": lambda args: self.membership_by_name(key, args["name"]),
            "artifact": lambda args: self.artifact_by_name(key, args["name"]),
        }

    # --------------------------------------------------------------------------------------------- runs

    def matching_runs(self, project_key: str, args: Args) -> list[RunRecord]:
        filters = json.loads(args.get("filters") or "{}")
        runs = [run for run in self.store.runs.values() if run.key.rsplit("/", 1)[0] == project_key]
        return ordered([run for run in runs if passes(run, filters)], args.get("order") or "+created_at")

    def run_or_none(self, key: str) -> Node | None:
        run = self.store.runs.get(key)
        return None if run is None else self.run(run)

    def run_to_resume(self, key: str) -> Node | None:
        if key in self.store.runs:
            self.store.runs[key].asked_for = True
        return self.run_or_none(key)

    def run(self, run: RunRecord) -> Node:
        """The fields of a run."""
        project_key = f"{run.entity}/{run.project}"
        return self._run_facts(run) | {
            "project": lambda _args: self.project_node(project_key),
            "projectId": lambda _args: str(list(self.store.projects).index(project_key) + 1),
            "user": lambda _args: self.user(),
            "wandbConfig": lambda args: _wandb_config(run, args["keys"]),
            "historyLineCount": len(run.history_lines),
            "eventsLineCount": len(run.event_lines),
            "logLineCount": len(run.output_lines),
            "historyTail": json.dumps(run.history_lines[-1:]),
            "eventsTail": json.dumps(run.event_lines[-1:]),
            "historyKeys": lambda _args: _history_keys(run),
            "history": lambda args: _sampled(_between(run.history_lines, args), args.get("samples")),
            "events": lambda args: _sampled(run.event_lines, args.get("samples")),
            "sampledHistory": lambda args: [_rows_with_keys(run, json.loads(spec)) for spec in args["specs"]],
            "parquetHistory": lambda _args: {"parquetUrls": [], "liveData": []},  # the client goes on with `history`
            "logLines": lambda args: _log_lines(run, args),
            "fileCount": len(run.files),
            "files": lambda args: self.run_files(run, args),
            "outputArtifacts": lambda args: self.artifacts_where(lambda a: run.key in a.logged_by, args),
            "inputArtifacts": lambda args: self.artifacts_where(lambda a: run.key in a.used_by, args),
        }

    @staticmethod
    def _run_facts(run: RunRecord) -> Node:
        return {
            "__typename": "Run",
            "id": run.storage_id,
            "name": run.id,
            "displayName": run.display_name,
            "state": run.state,
            "config": json.dumps(run.raw_config),
            "summaryMetrics": json.dumps(run.summary),
            "systemMetrics": json.dumps(run.events[-1] if run.event_lines else {}),
            "tags": run.tags,
            "notes": run.notes,
            "description": run.description,
            "group": run.group,
            "jobType": run.job_type,
            "readOnly": False,
            "createdAt": run.created_at,
            "heartbeatAt": run.heartbeat_at,
        }

    def upsert_bucket(self, given: Args) -> Node:
        run, inserted = self.store.upsert_run(given)
        return {"bucket": self.run(run), "inserted": inserted}

    def delete_run(self, given: Args) -> Node:
        self.store.delete_run(given["id"], bool(given.get("deleteArtifacts")))
        return {"clientMutationId": None}

    def stop_run(self, given: Args) -> Node:
        self.store.run_by_storage_id(given["id"]).stop_requested = True
        return {"success": True}

    def update_run_state(self, given: Args) -> Node:
        self.store.run_by_storage_id(given["id"]).reported_state = given["state"]
        return {"success": True}

    def alert(self, given: Args) -> Node:
        key = f"{given['entityName']}/{given['projectName']}/{given['runName']}"
        if key not in self.store.runs:
            raise GraphQLError(f"run {key} not found")
        self.store.runs[key].alerts.append({name: given.get(name) for name in ("title", "text", "severity")})
        return {"success": True}

    # ---------------------------------------------------------------------------------------- run files

    def create_run_files(self, given: Args) -> Node:
        key = f"{given['entityName']}/{given['projectName']}/{given['runName']}"
        run = self.store.runs.get(key)
        if run is None:
            raise GraphQLError(f"run {key} not found")
        names = given["files"]
        files = [{"name": name, "uploadUrl": f"{self.url()}/storage/run/{key}/{quote(name)}"} for name in names]
        return {"runID": run.storage_id, "uploadHeaders": [], "files": files}

    def run_files(self, run: RunRecord, args: Args) -> Node:
        names = list(args.get("names") or [])
        if pattern := args.get("pattern"):
            names = fnmatch.filter(run.files, pattern.replace("%", "*").replace("_", "?"))
        found = [name for name in run.files if not (args.get("names") or args.get("pattern")) or name in names]
        nodes = [self.run_file(run, name) for name in found]
        return connection(nodes, args)

    def run_file(self, run: RunRecord, name: str) -> Node:
        url = f"{self.url()}/storage/run/{run.key}/{quote(name)}"
        return {
            "id": f"{run.storage_id}:{name}",
            "name": name,
            "url": url,
            "directUrl": url,
            "sizeBytes": len(run.files[name]),
            "mimetype": mimetypes.guess_type(name)[0],
            "updatedAt": run.heartbeat_at,
            "md5": md5_of(run.files[name]),
        }

    def delete_files(self, given: Args) -> Node:
        for file_id in given["files"]:
            storage_id, name = file_id.split(":", 1)
            self.store.run_by_storage_id(storage_id).files.pop(name, None)
        return {"success": True}


def _wandb_config(run: RunRecord, keys: list[str]) -> str:
    """What the client itself noted in the config; only a run that was started has `t` there."""
    noted = run.raw_config.get("_wandb", {}).get("value", {})
    return json.dumps({key: noted[key] for key in keys if key in noted})


def _history_keys(run: RunRecord) -> Node:
    rows = run.history
    names = {name for row in rows for name in row}
    keys = {name: {"typeCounts": [{"type": "number", "count": len(rows)}]} for name in sorted(names)}
    return {"sets": [], "keys": keys, "lastStep": max((row.get("_step", 0) for row in rows), default=-1)}


def _between(lines: list[str], args: Args) -> list[str]:
    low, high = args.get("minStep"), args.get("maxStep")
    if low is None and high is None:
        return lines
    return [x for x in lines if (low or 0) <= json.loads(x).get("_step", 0) < (float("inf") if high is None else high)]


def _sampled(lines: list[str], samples: int | None) -> list[str]:
    if samples is None or len(lines) <= samples:
        return lines
    return [lines[i * len(lines) // samples] for i in range(samples)]


def _rows_with_keys(run: RunRecord, spec: dict[str, Any]) -> list[dict[str, Any]]:
    keys = spec.get("keys") or []
    # NaN is no JSON: it goes out as a string.
    rows = [json.loads(line, parse_constant=str) for line in run.history_lines]
    chosen = [{key: row[key] for key in keys} for row in rows if all(key in row for key in keys)]
    return chosen[: spec.get("samples") or len(chosen)]


def _log_lines(run: RunRecord, args: Args) -> Node:
    lines = list(enumerate(run.output_lines))
    if args.get("last") is not None:
        lines = lines[-args["last"] :]
    nodes = [{"number": number, "timestamp": "", "level": "", "label": "", "line": line} for number, line in lines]
    return connection(nodes, args)
