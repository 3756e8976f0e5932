"""Which machines of one's own there are: as they are named in a flag, in the environment, or in a file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tasks.services.run import environment
from ups_models.errors import BadInput
from ups_models.reading import read_text
from ups_models.wording import shown

HOSTS, FILE = "UPS_HOSTS", "~/.config/ups/hosts"
FORM = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<address>[A-Za-z0-9][\w.-]*)(?::(?P<port>\d{1,5}))?(?:=(?P<usd>\d+(?:\.\d+)?))?"
)
NAME_THEM = f"name your machines: --hosts gpu1,me@gpu2:2222, {HOSTS}, or one a line in {FILE}"


@dataclass(frozen=True)
class Host:
    """One machine as ssh is told of it: a name of ~/.ssh/config, or an address; and what its use is said to cost."""

    address: str
    user: str = ""
    port: int | None = None
    usd_per_hour: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """[USER@]HOST[:PORT][=USD]. Raises BadInput."""
        found = FORM.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise BadInput(
                f"{shown(text)}: is no host; write [USER@]HOST[:PORT][=USD an hour], where HOST may be a name of "
                "~/.ssh/config, which takes everything else, such as a proxy or a key"
            )
        port = int(found["port"]) if found["port"] else None
        return cls(found["address"], found["user"] or "", port, float(found["usd"] or 0.0))

    @property
    def name(self) -> str:
        """How it is told from others: without its price."""
        user, port = f"{self.user}@" if self.user else "", f":{self.port}" if self.port is not None else ""
        return f"{user}{self.address}{port}"

    @property
    def destination(self) -> list[str]:
        """The words for ssh."""
        login = ["-l", self.user] if self.user else []
        return [*login, *(["-p", str(self.port)] if self.port is not None else []), "--", self.address]


def parse_all(texts: Iterable[str]) -> dict[str, Host]:
    """Hosts by name, in the order in which they are named first; commas part them too. Raises BadInput."""
    found: dict[str, Host] = {}
    for text in texts:
        for word in text.replace(",", " ").split():
            host = Host.parse(word)
            found.setdefault(host.name, host)
    return found


def named_hosts() -> dict[str, Host]:
    """Those of the environment, or else of the file. Raises BadInput."""
    if environment.is_set(HOSTS):
        return parse_all([environment.get(HOSTS)])
    path = Path(FILE).expanduser()
    try:
        lines = read_text(path).splitlines()
    except FileNotFoundError:
        return {}
    try:
        return parse_all(line.partition("#")[0] for line in lines)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from None
