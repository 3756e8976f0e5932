"""A Vast.ai on loopback that the real SDK talks to, and whose instances are real processes.

    with VastEmulator(tmp_path) as emulator:
        emulator.default_market()
        vast = VastAI(api_key=emulator.api_key, server_url=emulator.url)

As a program: python -m harness.emulators.vast.emulator --root DIR
"""

import argparse
import atexit
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.emulators.processes import guardian
from harness.emulators.vast.cloud import TICK_S, VastCloud
from harness.emulators.vast.http import Request, Server


class VastEmulator(VastCloud):
    """The service behind HTTP on 127.0.0.1; everything it started is dead when it ends."""

    _server: Server | None = None
    _guardian: "subprocess.Popen[bytes] | None" = None
    _threads: tuple[threading.Thread, ...] = ()

    @property
    def requests(self) -> list[Request]:
        """Every request so far, without bodies and keys."""
        return [] if self._server is None else list(self._server.requests)

    def start(self, port: int = 0) -> Self:
        """Serve on this port, or on any free one, and let time pass."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._server = Server(self, port)
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
        """Close the door, then kill every process of every instance; returns when none is left."""
        if self._server is None or self._closed.is_set():
            return
        self._closed.set()
        self._server.shutdown()
        for thread in self._threads:
            thread.join()
        self._server.server_close()
        with self.lock:
            for one in self.instances:
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


def arguments(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="harness.emulators.vast.emulator", description="A Vast.ai on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="one folder per instance goes here")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--api-key", default="account-key-of-the-emulator")
    parser.add_argument("--credit", type=float, default=100.0, help="USD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--instance-path", default="/usr/local/bin:/usr/bin:/bin", help="PATH of the instances")
    parser.add_argument("--pass-env", action="append", default=[], metavar="NAME", help="hand it on to the instances")
    parser.add_argument("--empty-market", action="store_true", help="start without offers")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    given = arguments(sys.argv[1:] if argv is None else argv)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    emulator = VastEmulator(
        given.root,
        api_key=given.api_key,
        credit=given.credit,
        seed=given.seed,
        instance_path=given.instance_path,
        instance_env={name: os.environ[name] for name in given.pass_env if name in os.environ},
    )
    if not given.empty_market:
        emulator.default_market()
    try:
        emulator.start(given.port)
        print(f"VAST_URL={emulator.url}\nVAST_API_KEY={emulator.api_key}", flush=True)
        ended.wait()
    finally:
        emulator.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
