"""HTTP in front of the emulated RunPod, on 127.0.0.1 only: every request and answer is held against the description."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from harness.emulators.http import Handler, Server
from harness.emulators.runpod.api import ENDPOINTS, LOGS, Call, ctl, events, mine
from harness.emulators.runpod.cloud import ApiError, RunpodCloud
from harness.emulators.runpod.description import answer_faults, find, request_faults
from harness.emulators.runpod.pods import Pod
from harness.emulators.switches import BROKEN, DROP

JSON, PROBLEM = {"Content-Type": "application/json"}, {"Content-Type": "application/problem+json"}
TITLES = {400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found"}
OPEN_S, LOOK_S = 30.0, 0.2
"""How long a stream of events is held open, and how often it is looked whether there is more."""


class RunpodServer(Server):
    """Listens for the emulated RunPod, and remembers what did not keep to the description."""

    def __init__(self, cloud: RunpodCloud, port: int) -> None:
        super().__init__(RunpodHandler, port, cloud.clock)
        self.cloud = cloud
        self.rejected: list[str] = []
        """Requests that are not as described."""
        self.misworded: list[str] = []
        """Answers of ours that are not, but for those that a fault bent."""


class RunpodHandler(Handler):
    """One connection, one request."""

    server: RunpodServer
    received: bytes = b""

    @property
    def cloud(self) -> RunpodCloud:
        """The service behind."""
        return self.server.cloud

    def serve(self) -> None:
        """Answer whatever came."""
        self.received = self.content()
        address = urlsplit(self.path)
        try:
            if address.path == "/runpodctl":
                self.serve_ctl()
                return
            found = find(self.command, address.path)
            if found is None:
                raise ApiError(404, "Not Found", f"{self.command} {address.path} is not described")
            self.serve_operation(str(found[1]["operationId"]), found[2].get("id", ""))
        except ApiError as error:
            self.reply("unknown", error.status, error.body)

    def serve_operation(self, operation: str, pod: str) -> None:
        """Forced answers first, then the endpoint itself."""
        name = "logs" if operation == LOGS else ENDPOINTS[operation][0]
        count = self.server.count(name) if self.has_account_key() else 0
        if count and self.cloud.before_request(name, count):
            self.drop(name)
            return
        faults = request_faults(self.command, self.path, dict(self.headers), self.received)
        self.server.rejected += [f"{self.command} {self.path}: {fault}" for fault in faults]
        call = Call(
            pod, dict(parse_qsl(urlsplit(self.path).query)), {} if faults else json.loads(self.received or b"{}")
        )
        with self.cloud.lock:
            forced = self.cloud.faults.next_answer(name) if count else None
            status, body = self.answer(operation, call, faults) if forced is None else (200, None)
            call.drop_reply |= forced == DROP
        if count:
            self.cloud.after_request(name, count)
        time.sleep(self.cloud.faults.answer_delay_s)
        if call.drop_reply:
            self.drop(name)
        elif forced is not None or call.broken_reply:
            self.reply_forced(name, forced or call.broken_reply)
        elif isinstance(body, Pod):
            self.stream(name, body, call.query)
        else:
            self.reply(name, status, body)
        for action in call.after_reply:
            action()

    def answer(self, operation: str, call: Call, faults: list[str]) -> tuple[int, Any]:
        """What the endpoint says; a pod where its log is to be streamed."""
        try:
            self.authorize(call.pod)
            if faults:
                raise ApiError(422, "Unprocessable Entity", "Request validation failed.", faults)
            with self.cloud.changing():
                self.cloud.tick()
                if operation == LOGS:
                    return 200, mine(self.cloud, call.pod)
                return ENDPOINTS[operation][1](self.cloud, call)
        except ApiError as error:
            return error.status, error.body

    def authorize(self, pod: str) -> None:
        """Refuse any key but the account's; that of a pod is for runpodctl only."""
        if self.has_account_key():
            if status := self.cloud.faults.auth_error:
                raise ApiError(status, TITLES[status], "access denied")
            return
        owner = self.owner()
        if owner is None:
            raise ApiError(401, "Unauthorized", "invalid bearer token")
        if owner.id != pod or not self.cloud.faults.pod_key_may_use_v2:
            raise ApiError(403, "Forbidden", "access denied")

    def owner(self) -> Pod | None:
        """The pod whose own key came."""
        return next((one for one in self.cloud.live() if self.key() and one.api_key == self.key()), None)

    def has_account_key(self) -> bool:
        """Whether it comes from the account's owner, and not from a pod."""
        return secrets.compare_digest(self.key().encode(), self.cloud.api_key.encode())

    def serve_ctl(self) -> None:
        """What runpodctl in a pod asks for: its own way in, which the description does not know."""
        pod, later = self.owner(), list[Callable[[], None]]()
        if pod is None:
            raise ApiError(401, "Unauthorized", "invalid bearer token")
        ctl(self.cloud, pod, json.loads(self.received or b"{}"), later)
        self.send("runpodctl", 200, b"{}", JSON)
        for action in later:
            action()

    # ------------------------------------------------------------------ an answer

    def stream(self, endpoint: str, pod: Pod, query: Mapping[str, str]) -> None:
        """Events of a log: what there is at once, then what comes, until the client has had enough."""
        self.note(endpoint, 200)
        headers = self.quota() | {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        until, everything = time.monotonic() + OPEN_S, {**query, "tail": "5000"}
        try:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            shown, fresh = len(events(self.cloud, pod, everything)), events(self.cloud, pod, query)
            while True:
                self.wfile.write("".join(fresh).encode())
                self.wfile.flush()
                if not self.cloud.faults.logs_stay_open or time.monotonic() > until or not pod.live:
                    break
                time.sleep(LOOK_S)
                fresh = events(self.cloud, pod, everything)[shown:]
                shown += len(fresh)
        except (BrokenPipeError, ConnectionResetError):
            return  # it has had enough
        self.close_connection = True

    def reply_forced(self, endpoint: str, forced: int | str) -> None:
        """An answer out of turn: a broken one, a proxy's page, or an error as the service words it."""
        if isinstance(forced, str):
            self.send(endpoint, 201 if endpoint == "create" else 200, BROKEN[forced], JSON)
        elif self.cloud.faults.error_pages or forced < 400:
            self.send(endpoint, forced, BROKEN["page"], {"Content-Type": "text/html"} | self.wait(forced))
        else:
            title = TITLES.get(forced, "Error")
            self.reply(endpoint, forced, {"title": title, "status": forced, "detail": title.lower()})

    def reply(self, endpoint: str, status: int, body: Any) -> None:
        """JSON, or a problem."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = self.quota() | self.wait(status) | ({} if body is None else JSON if status < 400 else PROBLEM)
        bent = self.cloud.faults.missing_fields or self.cloud.faults.next_rows
        if not bent:
            faults = answer_faults(self.command, self.path, status, headers, content)
            self.server.misworded += [f"{self.command} {self.path} {status}: {fault}" for fault in faults]
        self.send(endpoint, status, content, headers)

    def quota(self) -> dict[str, str]:
        """What every answer says of the limits."""
        return {
            "RateLimit": '"minute";r=59;t=12, "hour";r=2800;t=1812',
            "RateLimit-Policy": '"minute";q=60;w=60, "hour";q=3000;w=3600',
        }

    def wait(self, status: int) -> dict[str, str]:
        """What a 429 carries."""
        return {"Retry-After": str(self.cloud.faults.retry_after_s)} if status == 429 else {}
