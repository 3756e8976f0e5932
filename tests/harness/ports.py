"""Ports for servers that bind theirs only later: a worker of Prefect, sshd, PostgreSQL, a rank."""

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""What the kernel gives to those who ask for any port, outgoing connections among them."""
LOWEST = 10_000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses, and that nobody is given who does not ask for this very one."""
    above = int(RANGE.read_text("ascii").split()[0]) if RANGE.exists() else 32_768
    while True:
        port = random.SystemRandom().randrange(LOWEST, max(above, LOWEST + 1000))
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
