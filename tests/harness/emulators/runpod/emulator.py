"""A RunPod on loopback, behind its REST API v2, whose pods are real processes.

    with RunpodEmulator(tmp_path) as emulator:
        emulator.default_market()
        environ |= {"RUNPOD_URL": f"{emulator.url}/v2", "RUNPOD_API_KEY": emulator.api_key}

As a program: python -m harness.emulators.runpod.emulator --root DIR
"""

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from harness.emulators.runpod.cloud import RunpodCloud
from harness.emulators.runpod.http import RunpodServer
from harness.emulators.runpod.pods import Pod
from harness.emulators.service import Service


class RunpodEmulator(RunpodCloud, Service):
    """The service behind HTTP on 127.0.0.1; everything it started is dead when it ends."""

    def make_server(self, port: int) -> RunpodServer:
        """What listens for it."""
        self.server = RunpodServer(self, port)
        return self.server

    def machines(self) -> list[Pod]:
        """All pods that there were."""
        return self.instances

    @property
    def rejected(self) -> list[str]:
        """Requests that were not as described, and answers of ours that were not."""
        return [*self.server.rejected, *self.server.misworded]


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="harness.emulators.runpod.emulator", description="A RunPod on loopback.")
    parser.add_argument("--root", type=Path, required=True, help="one folder per pod goes here")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--instance-path", default="/usr/local/bin:/usr/bin:/bin", help="PATH of the pods")
    parser.add_argument("--pass-env", action="append", default=[], metavar="NAME", help="hand it on to the pods")
    given, ended = parser.parse_args(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    passed = {name: os.environ[name] for name in given.pass_env if name in os.environ}
    emulator = RunpodEmulator(given.root, instance_path=given.instance_path, instance_env=passed)
    emulator.default_market()
    emulator.start(given.port)
    try:
        print(f"RUNPOD_URL={emulator.url}/v2\nRUNPOD_API_KEY={emulator.api_key}", flush=True)
        ended.wait()
    finally:
        emulator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
