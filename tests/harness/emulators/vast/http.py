"""HTTP in front of the emulated Vast.ai, on 127.0.0.1 only: keys, forced answers, lost answers."""

import json
import logging
import secrets
import socket
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.emulators.switches import BROKEN, DROP
from harness.emulators.vast.api import Call, Route, find_route
from harness.emulators.vast.cloud import ApiError, VastCloud
from harness.emulators.vast.control import control
from harness.emulators.vast.instances import Instance

logger = logging.getLogger(__name__)

TEXTS = {
    401: ("auth_error", "Invalid user key"),
    403: ("auth_error", "This key lacks the right, or the account asks for a second factor"),
    404: ("auth_error", "Invalid user key"),
    500: ("internal_error", "Internal server error"),
}


@dataclass(frozen=True)
class Request:
    """One request and its answer; status 0 is a connection closed without one."""

    method: str
    path: str
    endpoint: str
    status: int
    at: float  # the emulator's clock


class Server(ThreadingHTTPServer):
    """Listens on loopback, and remembers what was asked."""

    daemon_threads = True

    def __init__(self, cloud: VastCloud, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.cloud = cloud
        self.requests: list[Request] = []
        self.last_call: dict[str, float] = {}
        self.counts: Counter[str] = Counter()

    def count(self, endpoint: str) -> int:
        """How many requests to this endpoint there were, this one included."""
        with self.cloud.lock:
            self.counts[endpoint] += 1
            return self.counts[endpoint]


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server

    @property
    def cloud(self) -> VastCloud:
        """The service behind."""
        return self.server.cloud

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name in the base class
        """To the log, not to stderr."""
        logger.debug(format, *args)

    def do_GET(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_DELETE(self) -> None:
        self.serve()

    # ------------------------------------------------------------------ a request

    def serve(self) -> None:
        """Answer whatever came."""
        address = urlsplit(self.path)
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if address.path.startswith("/results/"):
            self.serve_result(address.path.removeprefix("/results/"))
            return
        try:
            body = self.read_body(raw)
            if address.path.startswith("/emulator/"):
                self.serve_control(address.path.removeprefix("/emulator/").strip("/"), body)
                return
            found = find_route(self.command, address.path)
            if found is None:
                raise ApiError(404, "not_found", f"{self.command} {address.path} does not exist")
            query = {name: as_json(value) for name, value in parse_qsl(address.query)}
            self.serve_route(found[0], Call(found[1], body, query))
        except ApiError as error:
            self.reply("unknown", error.status, error.body)

    def read_body(self, raw: bytes) -> dict[str, Any]:
        """The JSON object in the request."""
        try:
            body = json.loads(raw or b"{}")
        except ValueError as error:
            raise ApiError(400, "invalid_args", f"not JSON: {error}") from error
        if not isinstance(body, dict):
            raise ApiError(400, "invalid_args", "not a JSON object")
        return body

    def serve_route(self, route: Route, call: Call) -> None:
        """Forced answers first, then the endpoint itself."""
        count = self.server.count(route.endpoint) if self.has_account_key() else 0
        if count and self.cloud.before_request(route.endpoint, count):
            self.drop(route.endpoint)
            return
        with self.cloud.lock:
            forced = self.forced_answer(route)
            status, body = self.answer(route, call) if forced is None else (200, {})
            call.drop_reply |= forced == DROP
        if count:
            self.cloud.after_request(route.endpoint, count)
        time.sleep(self.cloud.faults.answer_delay_s)
        if call.drop_reply:
            self.drop(route.endpoint)
        elif forced is not None or call.broken_reply:
            self.reply_forced(route.endpoint, forced or call.broken_reply)
        else:
            self.reply(route.endpoint, status, body)
        for action in call.after_reply:
            action()

    def answer(self, route: Route, call: Call) -> tuple[int, dict[str, Any]]:
        """What the endpoint says."""
        try:
            call.container = self.authorize(route, call.numbers)
            with self.cloud.changing():
                self.cloud.tick()
                return 200, route.function(self.cloud, call)
        except ApiError as error:
            return error.status, error.body

    def forced_answer(self, route: Route) -> int | str | None:
        """An answer out of turn: one that a test asked for, or that of the rate limit."""
        faults, calls, now = self.cloud.faults, self.server.last_call, time.monotonic()
        forced = faults.next_answer(route.endpoint)
        if forced is not None:
            return forced
        early = now - calls.get(route.endpoint, float("-inf")) < route.interval_s * faults.rate_limit_scale
        if early:
            return 429
        calls[route.endpoint] = now
        return None

    def authorize(self, route: Route, numbers: list[int]) -> Instance | None:
        """None for the account's key, the instance for its own key and itself; else a refusal."""
        scheme, _, key = (self.headers.get("Authorization") or "").partition(" ")
        faults = self.cloud.faults
        if self.has_account_key():
            if faults.auth_error:
                raise ApiError(faults.auth_error, *TEXTS[403])
            return None
        owner = next((it for it in self.cloud.live() if scheme == "Bearer" and it.api_key == key), None)
        if owner is None:
            raise ApiError(faults.bad_key_status, *TEXTS[401])
        may = route.container_key and (route.method != "GET" or faults.container_key_may_get)
        if not may or numbers != [owner.id]:
            raise ApiError(403, *TEXTS[403])
        return owner

    def has_account_key(self) -> bool:
        """Whether it comes from the account's owner, and not from an instance."""
        scheme, _, key = (self.headers.get("Authorization") or "").partition(" ")
        return scheme == "Bearer" and secrets.compare_digest(key.encode(), self.cloud.api_key.encode())

    def serve_control(self, name: str, body: dict[str, Any]) -> None:
        """The way in for another process; the account's key opens it."""
        _, _, key = (self.headers.get("Authorization") or "").partition(" ")
        if not secrets.compare_digest(key.encode(), self.cloud.api_key.encode()):
            raise ApiError(401, *TEXTS[401])
        if name == "requests":
            self.reply("emulator", 200, [vars(it) for it in self.server.requests])
            return
        with self.cloud.changing():
            self.cloud.tick()
            said = control(self.cloud, name, body)
        self.reply("emulator", 200, said)

    def serve_result(self, name: str) -> None:
        """The text behind a result_url; it needs no key, and is not there at once."""
        result = self.cloud.results.get(name)
        ready = result is not None and time.monotonic() >= result.ready_at
        self.send("result", 200 if ready else 404, (result.text if result and ready else "").encode(), "text/plain")

    # ------------------------------------------------------------------ an answer

    def reply_forced(self, endpoint: str, forced: int | str) -> None:
        """An answer out of turn: a broken one, a proxy's page, or an error as the service words it."""
        if isinstance(forced, str):
            self.send(endpoint, 200, BROKEN[forced], "application/json")
        elif self.cloud.faults.error_pages:
            self.send(endpoint, forced, BROKEN["page"], "text/html")
        else:
            self.reply(endpoint, forced, forced_body(forced))

    def reply(self, endpoint: str, status: int, body: Any) -> None:
        """JSON."""
        self.send(endpoint, status, json.dumps(body).encode(), "application/json")

    def send(self, endpoint: str, status: int, content: bytes, kind: str) -> None:
        """Write the answer; a client that was killed meanwhile needs none."""
        self.note(endpoint, status)
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status == 429 and self.cloud.faults.retry_after:
                self.send_header("Retry-After", str(self.cloud.faults.retry_after_s))
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            logger.debug("%s: nobody waits for the answer", self.path)

    def drop(self, endpoint: str) -> None:
        """Close the connection without a word."""
        self.note(endpoint, DROP)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def note(self, endpoint: str, status: int) -> None:
        """Remember the request."""
        path = urlsplit(self.path).path
        self.server.requests.append(Request(self.command, path, endpoint, status, self.cloud.clock()))


def forced_body(status: int) -> dict[str, Any]:
    """The body of an answer out of turn."""
    if status == 429:
        return {"detail": "API requests too frequent"}
    error, text = TEXTS.get(status, ("error", f"status {status}"))
    return {"success": False, "error": error, "msg": text}


def as_json(text: str) -> Any:
    """A value of a query: JSON, or text as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text
