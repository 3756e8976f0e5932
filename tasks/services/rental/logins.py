"""How to log in to a rented machine: one ssh command, which takes no key anywhere."""

import shlex
from pathlib import Path

from tasks.services.rental.provider import Provider, ProviderRefused, Reachable, SshAddress
from ups_models.errors import BadInput

FOLDER = "ssh"
OPTIONS = (
    "BatchMode=yes",
    "StrictHostKeyChecking=accept-new",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ForwardAgent=no",
)
"""Only keys, a host's key is kept at the first login and must stay the same, and no agent is passed on."""


def address_of(provider: Provider, name: str, instance_id: str) -> SshAddress:
    """Where to log in. Raises BadInput where the provider has no logins, ProviderError, NoSuchInstance."""
    if not isinstance(provider, Reachable):
        raise BadInput(f"--provider {name}: does not say how to log in to its machines")
    address = provider.ssh_address(instance_id)
    if address is None:
        raise BadInput(f"instance {instance_id}: runs on this machine; there is nothing to log in to")
    if address.host.startswith("-") or address.user.startswith("-"):
        raise ProviderRefused(f"instance {instance_id}: its address {address.host!r} is none")
    return address


def ssh_command(address: SshAddress, instance_id: str, folder: Path, identity: Path | None = None) -> list[str]:
    """The command; `folder` keeps the host's key, `identity` names a private key of the user's own."""
    own = ["-o", "IdentitiesOnly=yes", "-i", str(identity)] if identity is not None else []
    if address.command:
        return [address.command[0], *own, *address.command[1:]]
    known_hosts = folder.absolute() / FOLDER / f"known_hosts-{instance_id}"
    options = [word for option in (*OPTIONS, f"UserKnownHostsFile={_quoted(known_hosts)}") for word in ("-o", option)]
    return ["ssh", "-F", "none", *options, *own, "-p", str(address.port), f"{address.user}@{address.host}"]


def in_words(command: list[str]) -> str:
    """The command as it is typed."""
    return shlex.join(command)


def _quoted(path: Path) -> str:
    return f'"{path}"' if " " in str(path) else str(path)
