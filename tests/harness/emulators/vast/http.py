"""HTTP in front of the emulated Vast.ai, on 127.0.0.1 only: keys, forced answers, lost answers."""

import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.emulators.http import Handler, Server
from harness.emulators.switches import BROKEN, DROP
from harness.emulators.vast.api import Call, Route, find_route
from harness.emulators.vast.cloud import ApiError, VastCloud
from harness.emulators.vast.control import control
from harness.emulators.vast.instances import Instance

JSON = {"Content-Type": "application/json"}
TEXTS = {
    401: ("auth_error", "Invalid user key"),
    403: ("auth_error", "This key lacks the right, or the account asks for a second factor"),
    404: ("auth_error", "Invalid user key"),
    500: ("internal_error", "Internal server error"),
}


class VastServer(Server):
    """Listens for the emulated Vast.ai."""

    def __init__(self, cloud: VastCloud, port: int) -> None:
        super().__init__(VastHandler, port, cloud.clock)
        self.cloud = cloud
        self.last_call: dict[str, float] = {}


class VastHandler(Handler):
    """One connection, one request."""

    server: VastServer

    @property
    def cloud(self) -> VastCloud:
        """The service behind."""
        return self.server.cloud

    # ------------------------------------------------------------------ a request

    def serve(self) -> None:
        """Answer whatever came."""
        address = urlsplit(self.path)
        raw = self.content()
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
        faults = self.cloud.faults
        if self.has_account_key():
            if faults.auth_error:
                raise ApiError(faults.auth_error, *TEXTS[403])
            return None
        owner = next((it for it in self.cloud.live() if it.api_key == self.key()), None)
        if owner is None:
            raise ApiError(faults.bad_key_status, *TEXTS[401])
        may = route.container_key and (route.method != "GET" or faults.container_key_may_get)
        if not may or numbers != [owner.id]:
            raise ApiError(403, *TEXTS[403])
        return owner

    def has_account_key(self) -> bool:
        """Whether it comes from the account's owner, and not from an instance."""
        return secrets.compare_digest(self.key().encode(), self.cloud.api_key.encode())

    def serve_control(self, name: str, body: dict[str, Any]) -> None:
        """The way in for another process; the account's key opens it."""
        if not self.has_account_key():
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
        text = result.text if result and ready else ""
        self.send("result", 200 if ready else 404, text.encode(), {"Content-Type": "text/plain"})

    # ------------------------------------------------------------------ an answer

    def reply_forced(self, endpoint: str, forced: int | str) -> None:
        """An answer out of turn: a broken one, a proxy's page, or an error as the service words it."""
        if isinstance(forced, str):
            self.send(endpoint, 200, BROKEN[forced], JSON)
        elif self.cloud.faults.error_pages:
            self.send(endpoint, forced, BROKEN["page"], self.limits(forced) | {"Content-Type": "text/html"})
        else:
            self.reply(endpoint, forced, forced_body(forced))

    def reply(self, endpoint: str, status: int, body: Any) -> None:
        """JSON."""
        self.send(endpoint, status, json.dumps(body).encode(), self.limits(status) | JSON)

    def limits(self, status: int) -> dict[str, str]:
        """What a 429 carries."""
        faults = self.cloud.faults
        return {"Retry-After": str(faults.retry_after_s)} if status == 429 and faults.retry_after else {}


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
