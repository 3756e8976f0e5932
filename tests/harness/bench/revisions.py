"""Other revisions of this repository, each checked out in a folder of its own."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FIRST_EDITION = "c55f3750507c878d5c1b9e59b43217d8ed3ac117"
EVERYTHING = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")


def checked_out(revision: str, folder: Path, checkout: Path = ROOT) -> Path:
    """The revision in `folder`, from the checkout, or from its `origin` where the checkout lacks it.

    Raises SystemExit, in words, when it cannot be had.
    """
    commit = _commit(checkout, revision)
    source = str(checkout) if commit else _origin(checkout)
    _git(checkout, "init", "--quiet", str(folder))
    if _fetch(folder, source, "--depth=1", commit or revision):
        commit = "FETCH_HEAD"
    else:  # a server resolves no abbreviated hash
        commit = _commit(folder, revision) if _fetch(folder, source, *EVERYTHING) else ""
    if not commit or _git(folder, "checkout", "--quiet", "--detach", commit).returncode:
        raise SystemExit(f"revision {revision}: not in {checkout}, and cannot be fetched from {source or 'origin'}")
    return folder


def _commit(folder: Path, revision: str) -> str:
    return _git(folder, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").stdout.strip()


def _origin(checkout: Path) -> str:
    url = _git(checkout, "remote", "get-url", "origin").stdout.strip()
    return str(checkout / url) if url and (checkout / url).is_dir() else url


def _fetch(folder: Path, source: str, *what: str) -> bool:
    return _git(folder, "-c", "protocol.version=2", "fetch", "--quiet", source, *what).returncode == 0


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
