"""A Vast.ai on loopback that the real SDK talks to, and whose instances are real processes.

    with VastEmulator(tmp_path) as emulator:
        emulator.default_market()
        vast = VastAI(api_key=emulator.api_key, server_url=emulator.url)

As a program: python -m harness.emulators.vast.emulator --root DIR
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from harness.emulators.service import Service
from harness.emulators.vast.cloud import VastCloud
from harness.emulators.vast.http import VastServer
from harness.emulators.vast.instances import Instance


class VastEmulator(VastCloud, Service):
    """The service behind HTTP on 127.0.0.1; everything it started is dead when it ends."""

    def make_server(self, port: int) -> VastServer:
        """What listens for it."""
        return VastServer(self, port)

    def machines(self) -> list[Instance]:
        """All instances that there were."""
        return self.instances


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
