"""The life of an emulated cloud: its door, its clock, and the end of all that it started, whatever ends it."""

from __future__ import annotations

import atexit
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from harness.emulators.http import Request, Server
from harness.emulators.processes import guardian

TICK_S = 0.05


class Killable(Protocol):
    """A machine, as far as its end goes."""

    def kill(self) -> None:
        """End everything that it started."""


class Service:
    """A cloud behind HTTP on 127.0.0.1; everything it started is dead when it ends."""

    root: Path
    url: str
    lock: threading.RLock
    _mark: str
    _closed: threading.Event
    _server: Server | None = None
    _guardian: subprocess.Popen[bytes] | None = None
    _threads: tuple[threading.Thread, ...] = ()

    def make_server(self, port: int) -> Server:
        """What listens for it."""
        raise NotImplementedError

    def tick(self) -> None:
        """Let everything happen that is due."""
        raise NotImplementedError

    def machines(self) -> Sequence[Killable]:
        """All that were ever started."""
        raise NotImplementedError

    @property
    def requests(self) -> list[Request]:
        """Every request so far, without bodies and keys."""
        return [] if self._server is None else list(self._server.requests)

    def start(self, port: int = 0) -> Self:
        """Serve on this port, or on any free one, and let time pass."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._server = self.make_server(port)
        self._guardian = guardian(self._mark)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        atexit.register(self.stop)
        self._threads = (
            threading.Thread(target=self._server.serve_forever, args=(TICK_S,), daemon=True),
            threading.Thread(target=self._pass_time, daemon=True),
        )
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """Close the door, then kill every process of every machine; returns when none is left."""
        if self._server is None or self._closed.is_set():
            return
        self._closed.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        with self.lock:
            for one in self.machines():
                one.kill()
        if self._guardian is not None:
            self._guardian.kill()
            self._guardian.communicate()
        atexit.unregister(self.stop)

    def _pass_time(self) -> None:
        while not self._closed.wait(TICK_S):
            self.tick()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
