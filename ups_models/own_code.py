"""Python of the user's own, named in a config as `my_net.py:Net`: found, identified by its content, and imported once.

What identifies it is the content of the file and of every module that it imports from its own folder.
"""

import ast
import atexit
import hashlib
import importlib.util
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType
from typing import Any

from ups_models.errors import BadInput
from ups_models.reading import MEGABYTE, Unparsable, Unreadable, parse_json, read_text
from ups_models.wording import first_line, shown

REFERENCE = re.compile(r"(?P<file>[^:\0]+\.py):(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
LIMIT = MEGABYTE
DIGITS = 16
"""Of a digest, as it is shown and compared."""
IDENTITY = re.compile(rf"(?P<file>[^/:]+\.py):\w+@(?P<digest>[0-9a-f]{{{DIGITS}}})")
KEPT = "code.json"
"""Where a run keeps the user's code that it was trained with: the text of each file by its name."""
_beside: set[str] = set()
"""Names of modules that were imported from the folders of such files."""
_brought: dict[str, Path] = {}
"""Folders of code that came with a run and is trusted, by the name of the file that is asked for."""


def is_reference(text: str) -> bool:
    """Whether a text names an object in a Python file."""
    return REFERENCE.fullmatch(text) is not None


@dataclass(frozen=True)
class OwnCode:
    """An object of the user's, and the code that it stands in.

    Attributes:
        reference: As the config names it.
        name: Of the object.
        file: Where it stands, absolute.
        texts: The file and every module that it imports from its folder, by their paths from there.
    """

    reference: str
    name: str
    file: Path
    texts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """sha256 over all of it."""
        parts = "".join(f"{name}\0{text}\0" for name, text in sorted(self.texts.items()))
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """What a fingerprint holds: the file, the object and the content, wherever the file lies."""
        return f"{self.file.name}:{self.name}@{self.digest[:DIGITS]}"

    def load(self) -> Any:
        """The object; what its module raises becomes one line. Raises BadInput."""
        module = _module(self.file, self.digest, tuple(self.texts))
        if not hasattr(module, self.name):
            known = [name for name in vars(module) if not name.startswith("_")][:12]
            raise BadInput(f"{self.reference}: {self.file} has no {self.name}; it has {', '.join(known) or 'nothing'}")
        return getattr(module, self.name)


@cache
def own_code(reference: str) -> OwnCode:
    """What a config names; read once, so that one process works with one content. Raises BadInput."""
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise BadInput(f"{shown(reference)} names no object in a Python file; write it as my_file.py:Name")
    file = Path(match["file"])
    if not file.is_file():
        folder = _brought.get(file.name)
        if folder is None:
            raise BadInput(
                f"{reference}: {file} is no file here. Start where it lies; or, if it came with a run, say that you "
                f"trust it: --trust-code {file.name}"
            )
        file = folder / file.name
    file = file.absolute()
    return OwnCode(reference, match["name"], file, _texts(file))


def identity_of(text: str) -> str:
    """The identity of what a config names by a path; any other name is its own."""
    return own_code(text).identity if is_reference(text) else text


def identified(arches: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The digest of each file of the user's that trained networks name, by the file's name."""
    texts = [str(value) for arch in arches for value in arch.values()]
    return {match["file"]: match["digest"] for text in texts if (match := IDENTITY.fullmatch(text))}


def trust_kept(path: Path, names: Collection[str], trained: Mapping[str, str]) -> None:
    """Let code that came with a run be executed, each file by its name, if it is what the run was trained with.

    `path` holds all of the code. A file that lies where the config names it is used before one that came. Raises
    BadInput.
    """
    if not names:
        return
    try:
        kept = parse_json(read_text(path, follow_links=False))
    except FileNotFoundError:
        raise BadInput(
            f"{path}: no such file: no code came with this run; leave --trust-code out, or bring the run here first: "
            f"ups pull RUN --trust-code {min(names)}"
        ) from None
    except (Unparsable, Unreadable) as error:
        raise BadInput(f"{path}: cannot be read ({error}); pull the run again") from None
    for name in names:
        texts = kept.get(name) if isinstance(kept, dict) else None
        if not isinstance(texts, dict) or not all(isinstance(text, str) for pair in texts.items() for text in pair):
            raise BadInput(f"--trust-code {shown(name)}: {path} holds no such file, but {shown(list(kept))}")
        if any(Path(one).is_absolute() or ".." in Path(one).parts for one in texts):
            raise BadInput(f"{path}: names files outside of its folder; pull the run again")
        own = OwnCode(name, "", Path(name), texts).digest[:DIGITS]
        trust(name, texts, trained.get(name, own))


def trust(name: str, texts: Mapping[str, str], digest: str) -> None:
    """Let code that came with a run be found and executed as `name`. Raises BadInput where it is not what ran."""
    found = OwnCode(name, "", Path(name), texts)
    if name not in texts or found.digest[:DIGITS] != digest:
        raise BadInput(f"{name}: the code that came with the run is not what the run was trained with; it is not used")
    folder = Path(mkdtemp(prefix="ups-code-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for relative, text in texts.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    _brought[name] = folder
    own_code.cache_clear()


def _texts(file: Path) -> dict[str, str]:
    """The file and, followed through all of them, the modules that it imports from its folder."""
    found: dict[str, str] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop()
        relative = path.relative_to(file.parent).as_posix()
        if relative in found:
            continue
        try:
            text = read_text(path, limit=LIMIT)
            tree = ast.parse(text)
        except Unreadable:
            raise
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = getattr(error, "lineno", None)
            raise BadInput(f"{path}{f':{line}' if line else ''}: is no Python ({first_line(error)})") from None
        found[relative] = text
        waiting += [one for name in _imported(tree, path, file.parent) if (one := _module_file(file.parent, name))]
    return found


def _imported(tree: ast.Module, path: Path, folder: Path) -> set[str]:
    """Names of modules that are imported, with those that `from a import b` may mean."""
    names: set[str] = set()
    package = ".".join(path.relative_to(folder).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            here = package.split(".")[: len(package.split(".")) - (node.level - 1)] if node.level else []
            base = ".".join(filter(None, (*here, node.module or "")))
            names |= {base} | {f"{base}.{alias.name}" if base else alias.name for alias in node.names}
    return {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 2)}


def _module_file(folder: Path, name: str) -> Path | None:
    path = folder.joinpath(*name.split("."))
    return next((one for one in (path.with_suffix(".py"), path / "__init__.py") if name and one.is_file()), None)


@cache
def _module(file: Path, digest: str, relatives: tuple[str, ...]) -> ModuleType:
    """The file as a module of its own; its folder is first among those that modules are looked for in."""
    spec = importlib.util.spec_from_file_location(f"ups_own_{digest[:DIGITS]}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    names = {
        ".".join(Path(one).with_suffix("").parts).removesuffix(".__init__"): file.parent / one for one in relatives
    }
    for name in _beside.intersection(names):  # of another folder's code, which has them already
        sys.modules.pop(name, None)
    sys.modules[spec.name] = module  # dataclasses and pickle look there
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise BadInput(f"{file}: raises {type(error).__name__} when it is imported: {first_line(error)}") from error
    finally:
        sys.path.remove(str(file.parent))
    for name, path in names.items():
        other = getattr(sys.modules.get(name), "__file__", None)
        if other is not None and not path.samefile(other):
            raise BadInput(f"{file}: imports {name}, but {other} of that name is in use; rename {path.name}")
    _beside.update(names)
    return module
