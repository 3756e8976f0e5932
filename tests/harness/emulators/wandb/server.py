"""A W&B server on loopback for the real client, with faults that can be switched on and eyes on what it received."""

import argparse
import base64
import json
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self
from urllib.parse import unquote

from harness.emulators.wandb.graphql import GraphQLError, execute, parse
from harness.emulators.wandb.http import Faults, HttpServer, Received, Upload
from harness.emulators.wandb.schema import Schema
from harness.emulators.wandb.state import load_state, save_state
from harness.emulators.wandb.store import ArtifactRecord, RunRecord, Store

__all__ = ["ArtifactRecord", "Faults", "Received", "RunRecord", "Upload", "WandbServer"]

KEY_CHARACTERS = 40


class WandbServer:
    """Serves 127.0.0.1 from start() to stop(); what it has received stays, also for a second start()."""

    def __init__(
        self,
        port: int = 0,
        *,
        entity: str = "researcher",
        api_keys: set[str] | None = None,
        crash_after_s: float | None = None,
        state_dir: Path | None = None,
    ) -> None:
        """Without `api_keys`, any key of the right form is good; after `crash_after_s`, a silent run has crashed."""
        self.port = port
        self.entity = entity
        self.api_keys = api_keys
        self.state_dir = state_dir
        self.faults = Faults()
        self.lock = threading.RLock()
        self.store = Store()
        self.store.crash_after_s = crash_after_s
        self.received: list[Received] = []
        self.uploads_begun: list[str] = []
        """The kind of each."""
        self.uploads: list[Upload] = []
        self.errors: list[str] = []
        """What the server answered with a GraphQL error: a field it lacks, a version that is not there."""
        self.root = Schema(self.store, entity, lambda: self.url).root()
        self.stopping = threading.Event()
        self._http: HttpServer | None = None
        self._thread: threading.Thread | None = None
        if state_dir is not None:
            load_state(self.store, state_dir)

    @property
    def url(self) -> str:
        """What WANDB_BASE_URL is set to."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen, at a second start on the same port."""
        if self._http is not None:
            return self
        self.stopping = threading.Event()
        self._http = HttpServer(self)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Be gone: close the port and every connection."""
        if self._http is None or self._thread is None:
            return
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._http.close_connections()
        self._thread.join()
        self._http = self._thread = None
        if self.state_dir is not None:
            with self.lock:
                save_state(self.store, self.state_dir)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # ------------------------------------------------------------------------------- what a test looks at

    @property
    def runs(self) -> dict[str, RunRecord]:
        """By "entity/project/id"."""
        return self.store.runs

    def run(self, entity: str, project: str, run_id: str) -> RunRecord:
        """One run; KeyError if nobody created it."""
        return self.store.runs[f"{entity}/{project}/{run_id}"]

    @property
    def artifacts(self) -> dict[str, list[ArtifactRecord]]:
        """Every version of any state, oldest first, by "entity/project/collection"."""
        found: dict[str, list[ArtifactRecord]] = {}
        with self.lock:
            for artifact in self.store.artifacts.values():
                found.setdefault(artifact.collection_key, []).append(artifact)
        return found

    def artifact(self, entity: str, project: str, name: str) -> ArtifactRecord:
        """A committed version by "collection:alias" or "collection:vN"; KeyError if there is none."""
        collection, _, alias = name.partition(":")
        with self.lock:
            found = self.store.find(f"{entity}/{project}/{collection}", alias or "latest")
        if found is None:
            raise KeyError(name)
        return found

    def content(self, artifact: ArtifactRecord) -> dict[str, bytes]:
        """The files of a version; a file whose upload never came to its end is absent."""
        with self.lock:
            entries = artifact.entries(self.store.blobs).values()
        return {entry.path: entry.content for entry in entries if entry.content is not None}

    @property
    def puts(self) -> int:
        """How many uploads were taken whole (run files, artifact files and manifests)."""
        return sum(upload.status == 200 for upload in self.uploads)

    @property
    def put_bytes(self) -> int:
        """The size of those uploads."""
        return sum(upload.size for upload in self.uploads if upload.status == 200)

    @property
    def blob_puts(self) -> list[Upload]:
        """The uploads of artifact files that were taken whole."""
        return [upload for upload in self.uploads if upload.kind == "blob" and upload.status == 200]

    def saw(self, text: bytes) -> list[str]:
        """Where a text arrived: method and operation or path of each request that holds it."""
        return [
            f"{r.method} {r.what}" for r in list(self.received) if text in r.body or text in unquote(r.path).encode()
        ]

    # --------------------------------------------------------------------------- what the handler asks for

    def knows_key(self, header: str | None) -> bool:
        """Whether an Authorization header carries a key that this server accepts."""
        kind, _, encoded = (header or "").partition(" ")
        key = encoded
        if kind == "Basic":
            key = base64.b64decode(encoded).decode().partition(":")[2]
        if self.api_keys is not None:
            return key in self.api_keys
        return len(key.rpartition("-")[2]) >= KEY_CHARACTERS

    def take(self, counter: str) -> bool:
        """Use up one of `fail_next` or `drop_next`."""
        with self.lock:
            left: int = getattr(self.faults, counter)
            if left > 0:
                setattr(self.faults, counter, left - 1)
            return left > 0

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond stop()."""
        self.stopping.wait(seconds)

    def answer(self, body: bytes) -> dict[str, Any]:
        """Answer a GraphQL request."""
        request = json.loads(body)
        try:
            with self.lock:
                data = execute(parse(request["query"]), request.get("variables") or {}, self.root)
        except GraphQLError as error:
            self.errors.append(str(error))
            return {"data": None, "errors": [{"message": str(error), "path": []}]}
        return {"data": data}


def client_environment(url: str, home: Path, key: str = "k" * KEY_CHARACTERS) -> dict[str, str]:
    """What a process needs to be tracked by the server at `url`, and to leave nothing outside `home`."""
    folders = {f"WANDB_{name}_DIR": str(home / "wandb" / name) for name in ("CACHE", "CONFIG", "DATA")}
    return {
        **folders,
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": key,
        "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false",
        "NETRC": str(home / "netrc"),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the address on one line and serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--entity", default="researcher")
    parser.add_argument("--state-dir", type=Path, help="keep runs and artifacts here from one start to the next")
    options = parser.parse_args(arguments)
    done = threading.Event()

    def finish(_number: int, _frame: FrameType | None) -> None:
        done.set()

    signal.signal(signal.SIGTERM, finish)
    signal.signal(signal.SIGINT, finish)
    with WandbServer(options.port, entity=options.entity, state_dir=options.state_dir) as server:
        print(server.url, flush=True)  # noqa: T201 - the one line of output, for whoever started us
        done.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
