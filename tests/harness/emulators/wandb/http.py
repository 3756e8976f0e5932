"""HTTP for the W&B server: connections, uploads, downloads, and the faults in all of them."""

import base64
import contextlib
import gzip
import json
import re
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from harness.emulators.wandb.store import Store, md5_of

if TYPE_CHECKING:
    from harness.emulators.wandb.server import WandbServer

CHUNK = 64 * 1024
RECEIVE_BUFFER = 256 * 1024
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Faults:
    """What the server does wrong. Every switch may change at any time; the defaults do nothing wrong."""

    refuse_uploads: int | None = None
    """Answer every upload of a file with this HTTP status (403 is final for the client, 500 is retried)."""
    upload_delay_s: float = 0.0
    """Wait before reading an upload."""
    upload_bytes_per_s: float | None = None
    """Read each upload at this rate."""
    drop_uploads_after_bytes: int | None = None
    """Close the connection of an upload after so many of its bytes."""
    fail_next: int = 0
    """Answer so many API requests (GraphQL and file stream) with `fail_status`."""
    fail_status: int = 500
    fail_only: str = ""
    """Answer every GraphQL operation with this in its name, in lower case, with `fail_status`."""
    drop_next: int = 0
    """Close the connection of so many requests without an answer."""
    hang: bool = False
    """Answer nothing until this is False again."""
    corrupt_downloads: bool = False
    """Flip a bit in the first byte of every artifact file that is downloaded."""
    reply_delay_s: float = 0.0
    """Wait before answering an API request."""


@dataclass(frozen=True)
class Received:
    """One request as it came, without its headers."""

    method: str
    path: str
    what: str
    """The GraphQL operation, or the path again."""
    body: bytes


@dataclass(frozen=True)
class Upload:
    """One upload: `kind` is run, blob or manifest; `status` what it was answered, 0 if it broke off."""

    kind: str
    name: str
    size: int
    status: int


class HttpServer(ThreadingHTTPServer):
    """Knows its open connections, so that it can be gone at once."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, wandb: "WandbServer") -> None:
        self.wandb = wandb
        self.connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", wandb.port), _Handler)

    def server_bind(self) -> None:
        # What the kernel holds for us is beyond the faults: a small buffer makes a slow upload slow for the client too.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        super().server_bind()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):  # the client closed it first
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | _Broken):
            self.wandb.errors.append(f"{type(error).__name__}: {error}")


class _Broken(Exception):
    """A connection to be closed without an answer."""


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: HttpServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it so
        """Nothing: `received` holds every request."""

    @property
    def wandb(self) -> "WandbServer":
        return self.server.wandb

    def do_GET(self) -> None:
        self._handled(self._get)

    def do_POST(self) -> None:
        self._handled(self._post)

    def do_PUT(self) -> None:
        self._handled(self._put)

    def _handled(self, answer: Callable[[str], None]) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            if path != "/faults":
                self._misbehave()
            answer(path)
        except _Broken:
            self.close_connection = True
        except ConnectionError:
            self.close_connection = True

    def _misbehave(self) -> None:
        while self.wandb.faults.hang:
            if self.wandb.stopping.wait(0.05):
                raise _Broken
        if self.wandb.take("drop_next"):
            raise _Broken

    # ---------------------------------------------------------------------------------- reading, answering

    def _chunks(self, limit: int | None = None) -> bytes:
        """Read the body, at the rate and up to the byte that the faults allow uploads (`limit` None: freely)."""
        left = int(self.headers.get("Content-Length") or 0)
        body = bytearray()
        while left:
            part = self.rfile.read(min(left, CHUNK if limit is None else limit))
            if not part or self.wandb.stopping.is_set():
                raise _Broken
            body += part
            left -= len(part)
            if limit is not None:
                self._throttle(len(part), len(body))
        return bytes(body)

    def _throttle(self, part: int, total: int) -> None:
        faults = self.wandb.faults
        if faults.drop_uploads_after_bytes is not None and total >= faults.drop_uploads_after_bytes:
            raise _Broken
        if faults.upload_bytes_per_s:
            self.wandb.wait(part / faults.upload_bytes_per_s)

    def _body(self) -> bytes:
        body = self._chunks()
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _note(self, what: str, body: bytes) -> None:
        self.wandb.received.append(Received(self.command, self.path, what, body))

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        if self.wandb.stopping.is_set():
            raise _Broken
        self.send_response(status)
        for name, value in ({"Content-Type": "application/octet-stream"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    # --------------------------------------------------------------------------------------- POST: the API

    def _post(self, path: str) -> None:
        body = self._body()
        if path == "/faults":
            return self._set_faults(json.loads(body or b"{}"))
        what = json.loads(body).get("operationName") or _operation(body) if path == "/graphql" else path
        self._note(what, body)
        if not self.wandb.knows_key(self.headers.get("Authorization")):
            return self._send_json({"errors": [{"message": "user is not logged in"}], "data": None}, 401)
        self.wandb.wait(self.wandb.faults.reply_delay_s)
        only = self.wandb.faults.fail_only
        if self.wandb.take("fail_next") or (only and only in what.lower()):
            return self._send_json({"error": "a fault was asked for"}, self.wandb.faults.fail_status)
        if path == "/graphql":
            return self._send_json(self.wandb.answer(body))
        return self._file_stream(path, body)

    def _set_faults(self, given: dict[str, Any]) -> None:
        names = {f.name for f in fields(Faults)}
        if unknown := set(given) - names:
            return self._send_json({"error": f"no such fault: {sorted(unknown)}", "faults": sorted(names)}, 400)
        for name, value in given.items():
            setattr(self.wandb.faults, name, value)
        return self._send_json(asdict(self.wandb.faults))

    def _file_stream(self, path: str, body: bytes) -> None:
        match = re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", path)
        run = self.wandb.runs.get("/".join(match.groups())) if match else None
        if run is None:
            return self._send_json({"error": f"nothing at {path}"}, 404)
        with self.wandb.lock:
            run.stream(json.loads(body))
        return self._send_json({"exitcode": run.exit_code, "limits": {}, "stopped": run.stop_requested})

    # ------------------------------------------------------------------------------------- PUT: the uploads

    def _put(self, path: str) -> None:
        kind, name = _storage_path(path)
        self.wandb.uploads_begun.append(kind)
        self.wandb.wait(self.wandb.faults.upload_delay_s)
        if self.wandb.faults.refuse_uploads is not None:
            status = self.wandb.faults.refuse_uploads
            self._note(path, self._chunks())
        else:
            status = self._take_upload(path, kind, name)
        size = int(self.headers.get("Content-Length") or 0)
        self.wandb.uploads.append(Upload(kind, name, size, status))
        self._send(status)

    def _take_upload(self, path: str, kind: str, name: str) -> int:
        try:
            body = self._chunks(self._step())
        except (_Broken, ConnectionError):
            self.wandb.uploads.append(Upload(kind, name, 0, 0))
            raise
        self._note(path, body)
        with self.wandb.lock:
            return _keep(self.wandb.store, kind, name, body)

    def _step(self) -> int:
        """How much of an upload is read at a time: a twentieth of a second's worth, so that slow is also smooth."""
        rate = self.wandb.faults.upload_bytes_per_s
        sizes = [CHUNK, self.wandb.faults.drop_uploads_after_bytes, int(rate / 20) if rate else None]
        return max(1, min(size for size in sizes if size is not None))

    # ----------------------------------------------------------------------------------- GET: the downloads

    def _get(self, path: str) -> None:
        if path == "/faults":
            return self._send_json(asdict(self.wandb.faults))
        self._note(path, b"")
        with self.wandb.lock:
            content = _stored(self.wandb.store, path)
        if content is None:
            return self._send(404)
        is_artifact_file = "/storage/blob/" in path or path.startswith("/artifactsV2/")
        if self.wandb.faults.corrupt_downloads and is_artifact_file and content:
            content = bytes([content[0] ^ 1]) + content[1:]
        return self._send_range(content)

    def _send_range(self, content: bytes) -> None:
        match = RANGE.fullmatch(self.headers.get("Range") or "")
        if match is None:
            return self._send(200, content)
        start, end = int(match[1]), int(match[2] or len(content) - 1)
        return self._send(206, content[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(content)}"})


def _operation(body: bytes) -> str:
    match = re.search(rb"(?:query|mutation)\s+(\w+)", body)
    return match[1].decode() if match else "an unnamed operation"


def _storage_path(path: str) -> tuple[str, str]:
    """The kind of an upload (run, blob or manifest) and what it names, from its address."""
    _, _, rest = path.partition("/storage/")
    kind, _, name = rest.partition("/")
    return kind, name


def _keep(store: Store, kind: str, name: str, body: bytes) -> int:
    """Store an upload; the status to answer. An artifact file whose digest is wrong is refused, as a bucket would."""
    if kind == "manifest" and name in store.artifacts:
        store.artifacts[name].manifest_bytes = body
        return 200
    if kind == "blob":
        entity, project, digest, artifact_id = name.split("/", 3)
        if base64.b64decode(md5_of(body)).hex() != digest:
            return 400
        key = f"{entity}/{project}/{md5_of(body)}"
        store.blobs.setdefault(key, body)
        store.birth.setdefault(key, artifact_id)
        return 200
    entity, project, run_id, file = name.split("/", 3) if kind == "run" else ("", "", "", "")
    run = store.runs.get(f"{entity}/{project}/{run_id}")
    if run is None:
        return 404
    run.files[file] = body
    return 200


def _stored(store: Store, path: str) -> bytes | None:
    """The content behind a download address."""
    kind, name = _storage_path(path)
    if kind == "manifest" and name in store.artifacts:
        return store.artifacts[name].manifest_bytes
    if kind == "run":
        entity, project, run_id, file = name.split("/", 3)
        run = store.runs.get(f"{entity}/{project}/{run_id}")
        return run.files.get(file) if run else None
    # The client's own way to a file: /artifactsV2/region/entity/project/collection/artifact/birth/hex/name.
    parts = path.split("/")
    owner, digest = (parts[3:5], parts[8]) if path.startswith("/artifactsV2/") and len(parts) > 8 else ([], "")
    if kind == "blob":
        *owner, digest = name.split("/")[:3]
    try:
        return store.blobs.get("/".join([*owner, base64.b64encode(bytes.fromhex(digest)).decode()]))
    except ValueError:
        return None
