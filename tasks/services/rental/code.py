"""Which code a rented machine gets: this checkout as it is, or a commit fetched by git."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tasks.services.run.code_version import ROOT, code_version, run_git
from ups_models.errors import BadInput

GIT = r"^git:(https|ssh|file)://[A-Za-z0-9@:/._~+-]+@[0-9a-f]{7,40}$"
CLONE_WITHIN_S = 600.0


@dataclass(frozen=True)
class Code:
    """A folder with the project's code, and what it is called."""

    root: Path
    version: str


@contextmanager
def code_to_send(address: str | None) -> Iterator[Code]:
    """This checkout as it is, or the commit of `git:<url>@<commit>`, cloned here. Raises BadInput."""
    if address is None:
        yield Code(ROOT, code_version())
        return
    url, _, commit = address.removeprefix("git:").rpartition("@")
    with TemporaryDirectory() as scratch:
        root = Path(scratch) / "code"
        for command in (
            ["clone", "--quiet", "--no-checkout", "--", url, str(root)],
            ["-C", str(root), "checkout", "--quiet", "--detach", commit],
        ):
            done = run_git(command, Path(scratch), CLONE_WITHIN_S)
            if done is None or done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] if done is not None else ["git did not end"]
                raise BadInput(f"--code {address}: cannot be fetched: {''.join(reason)}; check address and commit")
        if not (root / "tasks" / "services" / "rental" / "onstart.sh").is_file():
            raise BadInput(f"--code {address}: holds no ups-pipeline that rented machines can run; name another commit")
        yield Code(root, commit)
