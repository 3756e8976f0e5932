"""Arrays in a .npz file, none of which may hold objects: reading one executes nothing."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ups_models.errors import BadInput
from ups_models.reading import Unreadable, open_file
from ups_models.wording import first_line


def read_arrays(path: Path) -> dict[str, Any]:
    """The arrays by name. Raises FileNotFoundError, and BadInput for what is no such file."""
    try:
        with open_file(path) as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadInput(f"{path}: holds one array without a name; write it with numpy.savez, by its name")
            return {name: archive[name] for name in archive.files}
    except (FileNotFoundError, Unreadable):
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, MemoryError, zipfile.BadZipFile) as error:
        raise BadInput(f"{path}: is no .npz file of plain arrays ({first_line(error)})") from None
