"""The system's ssh: runs the script for hosts on one of them, and says what an answer, or none, proves."""

import logging
import os
import secrets
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

from tasks.services.rental.provider import ProviderError, ProviderRefused, UnknownOutcome
from tasks.services.rental.providers.ssh.hosts import Host
from tasks.services.run import environment
from ups_models.wording import plain, shortened

logger = logging.getLogger(__name__)

CONFIG = "UPS_SSH_CONFIG"
"""Names a file to be used in place of ~/.ssh/config."""
SCRIPT, RUN = (Path(__file__).with_name(name) for name in ("host.sh", "run.sh"))
OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=ERROR",
)
"""Nobody is asked anything, and nothing of this machine is passed on; the rest is the user's own ~/.ssh/config, host
keys included: whom to trust is not decided here."""
LONGEST_SOCKET, PERSIST_S = 60, 60
NO_TRANSPORT, NO_SHELL = 255, 127
REASONS = {
    "IDENTIFICATION HAS CHANGED": "its host key is not the one that is known; if it was installed anew, "
    "`ssh-keygen -R {host}`, then log in once by hand",
    "Host key verification failed": "its host key is not known here; log in once by hand: `{login}`",
    "Permission denied": "refuses the login; `{login}` must work without a password (`ssh-copy-id` takes your key "
    "there, ~/.ssh/config names it)",
    "Could not resolve hostname": "no host of this name is known; correct it, or name it in ~/.ssh/config",
    "Bad owner or permissions": "ssh refuses its own configuration ({said})",
    "Bad configuration option": "ssh refuses its own configuration ({said})",
}
"""What ssh says, and what that means to whoever named the host."""


class NoAnswer(UnknownOutcome):
    """The host was not reached, or the connection ended before its answer: what was asked for may have happened."""

    def __init__(self, host: Host, reason: str) -> None:
        super().__init__(f"{host.name}: {reason}")
        self.reason = reason


class Shell(Protocol):
    """Asks a host."""

    def ask(self, host: Host, verb: str, *, within_s: float = 60.0, **values: str) -> str:
        """What the host writes. Raises NoAnswer, and ProviderError for an answer that says it cannot be done."""


class SystemShell:
    """The ssh of this machine. One connection a host is kept for a minute, for the next question."""

    def __init__(self) -> None:
        if shutil.which("ssh") is None:
            raise ProviderRefused("--provider ssh: no ssh is installed here; install OpenSSH's client")
        self.command = ["ssh", *own_config(), *_words(OPTIONS), *_words(_shared_connection())]

    def ask(self, host: Host, verb: str, *, within_s: float = 60.0, **values: str) -> str:
        """Through the input of `bash -s`: nothing that is asked stands in a command line."""
        nonce = secrets.token_hex(8)
        said = {"verb": verb, "nonce": nonce, **values}
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in said.items()]
        script = "".join([*lines, SCRIPT.read_text("utf-8"), "\nanswer\n"])
        command = [*self.command, *host.destination, "bash -s"]
        with tempfile.TemporaryFile() as errors:  # no pipe: a connection that is kept for the next question holds it
            try:
                done = subprocess.run(
                    command, input=script.encode(), stdout=subprocess.PIPE, stderr=errors, timeout=within_s, check=False
                )
            except subprocess.TimeoutExpired:
                raise NoAnswer(host, f"did not answer within {within_s:.0f} s") from None
            except OSError as error:
                raise ProviderRefused(
                    f"--provider ssh: ssh does not start ({error}); install OpenSSH's client"
                ) from None
            errors.seek(0)
            complaint = errors.read().decode("utf-8", "replace")
        return _answer(host, done.stdout.decode("utf-8", "replace"), nonce, done.returncode, complaint)


def run_script() -> str:
    """What a run is started with on a host."""
    return RUN.read_text("utf-8")


def own_config() -> list[str]:
    """The words for ssh that name another configuration than the user's, if one was given."""
    return ["-F", str(environment.path(CONFIG, ""))] if environment.is_set(CONFIG) else []


def login_command(host: Host) -> list[str]:
    """How to log in to it by hand."""
    return ["ssh", *own_config(), *host.destination]


def _answer(host: Host, output: str, nonce: str, code: int, complaint: str) -> str:
    """What stands between the marks. Raises NoAnswer, ProviderError."""
    _, begun, rest = output.partition(f"ups-begin {nonce}\n")
    text, ended, its_code = rest.rpartition(f"\nups-end {nonce} ")
    said = shortened(plain(_last_line(complaint)), 200)
    if begun and ended and its_code.strip() == "0":
        return text
    if begun and ended:
        raise ProviderError(f"{host.name}: cannot do what was asked ({said or 'no reason given'})")
    if code == NO_TRANSPORT or begun or code < 0:
        raise NoAnswer(host, _reason(host, complaint, said))
    if code == NO_SHELL:
        raise NoAnswer(host, "has no bash; install it there")
    raise NoAnswer(host, f"its login runs no commands ({said or f'exit code {code}'}); give it bash")


def _reason(host: Host, complaint: str, said: str) -> str:
    login = shlex.join(login_command(host)).replace(" -- ", " ")
    for sign, meaning in REASONS.items():
        if sign in complaint:
            return meaning.format(host=host.address, login=login, said=said)
    return f"does not answer ({said or 'the connection ended'})"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _words(options: tuple[str, ...]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def _shared_connection() -> tuple[str, ...]:
    """Options that keep a connection; none where no folder is ours alone, and short enough for a socket's name."""
    folder = Path(tempfile.gettempdir()) / f"ups-ssh-{os.getuid()}"
    if len(str(folder)) > LONGEST_SOCKET - len("/") or '"' in str(folder) or " " in str(folder):
        return ()
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return ()
    return ("ControlMaster=auto", f"ControlPath={folder}/%C", f"ControlPersist={PERSIST_S}")
