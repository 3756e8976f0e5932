"""HTTP of an emulated service, on 127.0.0.1 only: what was asked, what is answered, what is lost."""

import logging
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from harness.emulators.switches import DROP

logger = logging.getLogger(__name__)


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

    def __init__(self, handler: "type[Handler]", port: int, clock: Callable[[], float]) -> None:
        super().__init__(("127.0.0.1", port), handler)
        self.clock = clock
        self.requests: list[Request] = []
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()

    def count(self, endpoint: str) -> int:
        """How many requests to this endpoint there were, this one included."""
        with self._counting:
            self._counts[endpoint] += 1
            return self._counts[endpoint]


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server

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

    def serve(self) -> None:
        """Answer whatever came."""
        raise NotImplementedError

    def content(self) -> bytes:
        """The body of the request."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def key(self) -> str:
        """The bearer token; empty without one."""
        scheme, _, key = (self.headers.get("Authorization") or "").partition(" ")
        return key if scheme == "Bearer" else ""

    def send(self, endpoint: str, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        """Write the answer; a client that was killed meanwhile needs none."""
        self.note(endpoint, status)
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("Content-Length", str(len(content)))
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
        self.server.requests.append(Request(self.command, path, endpoint, status, self.server.clock()))
