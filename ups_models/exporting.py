"""A surrogate into one file: its weights for `load_surrogate`, or the operator's step as a program for torch.export."""

import io
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn

from ups_models.errors import BadInput
from ups_models.exported import Exported, needs_of, write_export
from ups_models.files import write_atomically
from ups_models.nn.codec import means_of
from ups_models.nn.own import Operator
from ups_models.nn.weights import weights_of
from ups_models.surrogate import Surrogate
from ups_models.wording import first_line

ABOUT = "about.json"


def export(surrogate: Surrogate, path: Path) -> Mapping[str, str]:
    """Write a surrogate into one file; the code of the user's that it needs beside it. Raises StorageError."""
    weights = {stage: weights_of(net) for stage, net in surrogate.models.networks().items()}
    needs = needs_of(surrogate.cfg)
    write_export(path, Exported(surrogate.cfg, weights, surrogate.trained_on, needs))
    return needs


class _Step(nn.Module):
    """(u (B, C, *space), parameters (B, P + 1)) -> u one step later; parameters as `Surrogate` conditions on them."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, u: Tensor, parameters: Tensor) -> Tensor:
        return self.operator.decode(self.operator.advance(self.operator.encode(u), parameters), means_of(u))


def _about(surrogate: Surrogate) -> dict[str, object]:
    """What the program's inputs are, for whoever has it alone; in the file as `about.json`."""
    problem = surrogate.problem
    columns = [
        f"ln {one.name}" if one.logarithmic else one.name if one.unit == 1 else f"{one.name} / {one.unit:g}"
        for one in problem.parameters
    ]
    return {
        "problem": problem.name,
        "u": f"(B, {len(problem.channels)}, {', '.join(map(str, surrogate.cfg.data.grid))}) float32",
        "channels": list(problem.channels),
        "axes": [axis.name for axis in problem.axes],
        "parameters": f"(B, {len(columns) + 1}) float32: {', '.join([*columns, 'ln dt'])}",
        "dt": surrogate.dt,
        "trained_on": dict(surrogate.trained_on),
    }


def export_step(surrogate: Surrogate, path: Path) -> Mapping[str, object]:
    """Write one step of the operator as a program that needs none of our code; returns what its inputs are.

    Raises BadInput where it cannot be.
    """
    problem, grid = surrogate.problem, surrogate.cfg.data.grid
    u = torch.zeros(2, len(problem.channels), *grid, device=surrogate.device)
    parameters = torch.zeros(2, len(problem.parameters) + 1, device=surrogate.device)
    batch = torch.export.Dim("batch", min=2)
    try:
        program = torch.export.export(
            _Step(surrogate.operator), (u, parameters), dynamic_shapes={"u": {0: batch}, "parameters": {0: batch}}
        )
    except Exception as error:
        raise BadInput(f"the operator cannot be exported by torch.export ({first_line(error)})") from error
    about, buffer = _about(surrogate), io.BytesIO()
    torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about, indent=1)})
    write_atomically(path, partial(_write, buffer.getvalue()))
    return about


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
