"""The GraphQL fields and mutations of artifacts: types, collections, versions, aliases, files, uploads."""

import json
import mimetypes
from abc import ABC, abstractmethod
from collections.abc import Callable
from urllib.parse import quote

from harness.emulators.wandb.graphql import Args, Node, connection
from harness.emulators.wandb.filters import ordered
from harness.emulators.wandb.store import ArtifactRecord, ManifestEntry, Store, hex_of


class ArtifactFields(ABC):
    """Answers what concerns artifacts; what concerns projects and runs is left to the whole schema."""

    def __init__(self, store: Store, viewer: str, url: Callable[[], str]) -> None:
        self.store = store
        self.viewer = viewer
        self.url = url

    @abstractmethod
    def project_node(self, key: str) -> Node:
        """The fields of the project with the key entity/name."""

    @abstractmethod
    def run_or_none(self, key: str) -> Node | None:
        """The fields of the run with the key entity/project/id, if there is one."""

    # ------------------------------------------------------------------------ artifacts: reading them

    def artifact_type(self, project_key: str, name: str) -> Node:
        return {
            "__typename": "ArtifactType",
            "id": f"type:{project_key}/{name}",
            "name": name,
            "description": None,
            "createdAt": self.store.projects[project_key],
            "artifactCollections": lambda args: connection(self.collections(project_key, name), args),
            "artifactCollection": lambda args: self.collection_or_none(f"{project_key}/{args['name']}"),
        }

    def collections(self, project_key: str, type_name: str | None) -> list[Node]:
        prefix = f"{project_key}/"
        keys = {
            artifact.collection_key: None
            for artifact in self.store.committed()
            if artifact.collection_key.startswith(prefix) and type_name in {None, artifact.type}
        }
        return [self.collection(key) for key in keys]

    def collection_or_none(self, key: str) -> Node | None:
        return self.collection(key) if any(a.collection_key == key for a in self.store.artifacts.values()) else None

    def collection_by_id(self, args: Args) -> Node | None:
        return self.collection_or_none(args["id"].removeprefix("collection:"))

    def collection(self, key: str) -> Node:
        """The fields of a sequence of versions."""
        entity, project, name = key.split("/")
        every = [artifact for artifact in self.store.artifacts.values() if artifact.collection_key == key]
        versions = self.store.versions(key)
        return {
            "__typename": "ArtifactSequence",
            "id": f"collection:{key}",
            "name": name,
            "description": None,
            "createdAt": every[0].created_at,
            "updatedAt": every[-1].created_at,
            "state": "READY",
            "digestAlgorithm": "MANIFEST_MD5",
            "project": lambda _args: self.project_node(f"{entity}/{project}"),
            "defaultArtifactType": {"name": every[0].type},
            "tags": {"edges": []},
            "aliases": lambda args: connection([n for a in versions for n in self.aliases(a)], args),
            "latestArtifact": lambda _args: self.artifact(versions[-1]) if versions else None,
            "artifacts": lambda args: self.version_page(ordered(versions, args.get("order") or "-created_at"), args),
            "artifactMembership": lambda args: self.membership(self.store.find(key, args["aliasName"])),
        }

    def version_page(self, versions: list[ArtifactRecord], args: Args) -> Node:
        page = connection([self.artifact(artifact) for artifact in versions], args)
        for edge in page["edges"]:
            edge["version"] = f"v{edge['node']['versionIndex']}"
        return page

    def artifacts_where(self, wanted: Callable[[ArtifactRecord], bool], args: Args) -> Node:
        return self.version_page([artifact for artifact in self.store.committed() if wanted(artifact)], args)

    def find(self, project_key: str, name: str) -> ArtifactRecord | None:
        collection, _, alias = name.partition(":")
        return self.store.find(f"{project_key}/{collection}", alias or "latest")

    def artifact_by_name(self, project_key: str, name: str) -> Node | None:
        found = self.find(project_key, name)
        return None if found is None else self.artifact(found)

    def membership_by_name(self, project_key: str, name: str) -> Node | None:
        return self.membership(self.find(project_key, name))

    def membership(self, artifact: ArtifactRecord | None) -> Node | None:
        if artifact is None:
            return None
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": f"membership:{artifact.id}",
            "versionIndex": artifact.version,
            "createdAt": artifact.created_at,
            "aliases": lambda _args: self.aliases(artifact),
            "artifactCollection": lambda _args: self.collection(artifact.collection_key),
            "artifact": lambda _args: self.artifact(artifact),
            "files": lambda args: self.artifact_files(artifact, args),
        }

    def aliases(self, artifact: ArtifactRecord) -> list[Node]:
        return [
            {
                "__typename": "ArtifactAlias",
                "id": f"{artifact.id}:{alias}",
                "alias": alias,
                "artifactCollection": lambda _args: self.collection(artifact.collection_key),
            }
            for alias in artifact.aliases
        ]

    def artifact(self, artifact: ArtifactRecord) -> Node:
        """The fields of a version."""
        entries = artifact.entries(self.store.blobs)
        return self._artifact_facts(artifact) | {
            "size": sum(entry.size for entry in entries.values()),
            "fileCount": len(entries),
            "artifactType": {"name": artifact.type},
            "artifactSequence": lambda _args: self.collection(artifact.collection_key),
            "aliases": lambda _args: self.aliases(artifact),
            "currentManifest": lambda _args: self.manifest(artifact) if artifact.manifest_bytes else None,
            "filesByManifestEntries": lambda args: self.artifact_files(artifact, args),
            "files": lambda args: self.artifact_files(artifact, args),
            "createdBy": lambda _args: self.run_or_none(artifact.logged_by[0]),
            "usedBy": lambda _args: connection(
                [node for node in map(self.run_or_none, artifact.used_by) if node is not None], {}
            ),
        }

    @staticmethod
    def _artifact_facts(artifact: ArtifactRecord) -> Node:
        return {
            "__typename": "Artifact",
            "id": artifact.id,
            "versionIndex": artifact.version,
            "description": artifact.description,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": artifact.ttl_s,
            "ttlIsInherited": artifact.ttl_s == -1,
            "tags": [{"__typename": "Tag", "id": f"tag:{tag}", "name": tag} for tag in artifact.tags],
            "historyStep": artifact.history_step,
            "state": artifact.state,
            "digest": artifact.digest,
            "digestAlgorithm": "MANIFEST_MD5",
            "commitHash": str(artifact.number),
            "createdAt": artifact.created_at,
            "updatedAt": artifact.created_at,
        }

    def artifact_files(self, artifact: ArtifactRecord, args: Args) -> Node:
        """The files of a version; a reference has none. `names` or manifest `entries` choose some."""
        wanted = set(args.get("names") or []) | {entry["name"] for entry in args.get("entries") or []}
        entries = [e for e in artifact.entries(self.store.blobs).values() if e.ref is None]
        chosen = [entry for entry in entries if not wanted or entry.path in wanted]
        return connection([self.artifact_file(artifact, entry) for entry in chosen], args)

    def artifact_file(self, artifact: ArtifactRecord, entry: ManifestEntry) -> Node:
        url = self.blob_url(artifact, entry.digest)
        return {
            "__typename": "File",
            "id": f"{artifact.id}:{entry.path}",
            "name": entry.path,
            "displayName": entry.path,
            "url": url,
            "directUrl": url,
            "sizeBytes": entry.size,
            "storagePath": entry.digest,
            "mimetype": mimetypes.guess_type(entry.path)[0],
            "updatedAt": artifact.created_at,
            "digest": entry.digest,
            "md5": entry.digest,
        }

    def blob_url(self, artifact: ArtifactRecord, digest: str) -> str:
        return f"{self.url()}/storage/blob/{artifact.entity}/{artifact.project}/{hex_of(digest)}"

    def client_id_mapping(self, args: Args) -> Node | None:
        for artifact in self.store.artifacts.values():
            if artifact.client_id == args["clientID"] and artifact.state == "COMMITTED":
                return {"serverID": artifact.id}
        return None

    # ----------------------------------------------------------------------- artifacts: writing them

    def create_artifact_type(self, given: Args) -> Node:
        self.store.open_type(given["entityName"], given["projectName"], given["name"])
        return {"artifactType": self.artifact_type(f"{given['entityName']}/{given['projectName']}", given["name"])}

    def create_artifact(self, given: Args) -> Node:
        return {"artifact": self.artifact(self.store.create_artifact(given))}

    def manifest(self, artifact: ArtifactRecord) -> Node:
        url = f"{self.url()}/storage/manifest/{quote(artifact.id)}"
        file = {"id": f"{artifact.id}:manifest", "directUrl": url, "uploadUrl": url, "uploadHeaders": []}
        return {"id": artifact.id, "file": file}

    def create_manifest(self, given: Args) -> Node:
        return {"artifactManifest": self.manifest(self.store.artifact(given["artifactID"]))}

    def update_manifest(self, given: Args) -> Node:
        return {"artifactManifest": self.manifest(self.store.artifact(given["artifactManifestID"]))}

    def create_artifact_files(self, given: Args) -> Node:
        nodes = [self.artifact_upload(file) for file in given["artifactFiles"]]
        return {"files": connection(nodes, {})}

    def artifact_upload(self, file: Args) -> Node:
        """Where a file goes: nowhere (null) if its bytes are here already."""
        artifact, digest = self.store.artifact(file["artifactID"]), file["md5"]
        key = f"{artifact.entity}/{artifact.project}/{digest}"
        known = key in self.store.blobs
        return {
            "name": file["name"],
            "displayName": file["name"],
            "storagePath": f"{artifact.entity}/{artifact.project}/{hex_of(digest)}",
            "uploadUrl": None if known else f"{self.blob_url(artifact, digest)}/{quote(artifact.id)}",
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "artifact": {"id": self.store.birth[key] if known else artifact.id},
        }

    def commit_artifact(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        self.store.commit(artifact)
        return {"artifact": self.artifact(artifact)}

    def update_artifact(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        if given.get("description") is not None:
            artifact.description = given["description"]
        if given.get("metadata") is not None:
            artifact.metadata = json.loads(given["metadata"])
        if given.get("ttlDurationSeconds") is not None:
            artifact.ttl_s = given["ttlDurationSeconds"]
        gone = {tag["tagName"] for tag in given.get("tagsToDelete") or []}
        added = [tag["tagName"] for tag in given.get("tagsToAdd") or []]
        artifact.tags = [tag for tag in dict.fromkeys(artifact.tags + added) if tag not in gone]
        return {"artifact": self.artifact(artifact)}

    def delete_artifact(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        self.store.delete_artifact(artifact, bool(given.get("deleteAliases")))
        return {"artifact": {"id": artifact.id}}

    def delete_collection(self, given: Args) -> Node:
        key = given["artifactSequenceID"].removeprefix("collection:")
        for artifact in self.store.versions(key):
            self.store.discard(artifact)
        return {"artifactCollection": {"__typename": "ArtifactSequence", "state": "DELETED"}}

    def use_artifact(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        key = f"{given['entityName']}/{given['projectName']}/{given['runName']}"
        if key not in artifact.used_by:
            artifact.used_by.append(key)
        if key in self.store.runs and artifact.name not in self.store.runs[key].used_artifacts:
            self.store.runs[key].used_artifacts.append(artifact.name)
        return {"artifact": self.artifact(artifact)}

    def add_aliases(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        self.store.move_aliases(artifact, [alias["alias"] for alias in given["aliases"]])
        return {"success": True}

    def delete_aliases(self, given: Args) -> Node:
        artifact = self.store.artifact(given["artifactID"])
        gone = {alias["alias"] for alias in given["aliases"]}
        artifact.aliases = [alias for alias in artifact.aliases if alias not in gone]
        return {"success": True}
