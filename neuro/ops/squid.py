"""Rate table of the receiving SQUID: mean voltage g as a function of flux phi and SQUID current i.

g is the mean of (phi_1' + phi_2') / 2 over whole periods of a symmetric two-junction SQUID (the
equations are in `kernels/squid.py`), in units of Ic R. It is even in phi with period 1, so [0, 0.5]
is tabulated. Below a critical current, which depends on phi, it is 0.

The table is simulated once (2 seconds on two idle cores) and stored in the folder of generated
data, `$NEURO_DATA` or .data. It is interpolated bilinearly; outside its range of currents it is
constant with gradient 0. For random points within the range, 98 % of the interpolated rates are
within .002 of a simulation at the point. The others lie in cells at the onset, where g rises as a
square root, and have an error of at most .04.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from neuro.config.paths import expanded
from neuro.errors import DataError
from neuro.io.files import replacing

Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

VERSION = 1  # of the simulation; to be increased when its results change

# Grid of the table, evenly spaced, so that the cell of a point is found by one multiplication.
I_MIN, I_MAX, I_CELLS = 0.95, 2.5, 310
PHI_MAX, PHI_CELLS = 0.5, 100


@dataclass(frozen=True)
class Squid:
    """Parameters of device and simulation; the defaults give rates accurate to 1e-6."""

    beta_c: float = 0.3  # damping of the junctions (Stewart-McCumber)
    loop: float = np.pi / 2  # i_1 - i_2 per 2 pi of phase around the loop, inverted
    step: float = 0.1  # time step, in Phi0 / (2 pi Ic R)
    tolerance: float = 1e-6  # change of the rate between periods at which a simulation stops
    limit: float = 2e4  # longest simulated time; rates below 2 pi / limit become 0


def simulate(squid_current: Array, phi: Array, squid: Squid = Squid()) -> Array:
    """Mean voltage [n] for SQUID currents [n] and fluxes [n] (in Phi0), simulated from rest."""
    from neuro.ops.kernels.launch import compiled

    kernel = compiled("squid")

    i, flux = np.array(squid_current, np.float64), 2 * np.pi * np.array(phi, np.float64)
    out = np.empty_like(i)
    kernel.rates_from_rest(i, flux, *_constants(squid), out)
    return out


def simulate_table(squid: Squid = Squid()) -> Array:
    """Simulate the table [I_CELLS + 1, PHI_CELLS + 1], with one thread per core."""
    from neuro.ops.kernels.launch import compiled

    kernel = compiled("squid")

    currents = np.linspace(I_MIN, I_MAX, I_CELLS + 1)
    columns = np.empty((PHI_CELLS + 1, I_CELLS + 1))

    def fill(column: int) -> None:
        flux = 2 * np.pi * PHI_MAX * column / PHI_CELLS
        kernel.rate_column(currents, flux, *_constants(squid), columns[column])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(PHI_CELLS + 1)))
    return np.ascontiguousarray(columns.T)  # threads wrote columns as rows, contiguous in memory


def _constants(squid: Squid) -> tuple[float, ...]:
    return squid.beta_c, squid.loop, squid.step, squid.tolerance, squid.limit


@cache
def rate_table(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The table [I_CELLS + 1, PHI_CELLS + 1], simulated if there is no file. Do not modify it.

    Raises DataError if the file cannot be written.
    """
    folder = Path(expanded(os.environ.get("NEURO_DATA") or ".data"))
    return torch.from_numpy(cached_table(folder)).to(device, dtype)


def cached_table(folder: Path, squid: Squid = Squid()) -> Array:
    """Load the table from its file in `folder`; simulate and write it if there is none.

    A damaged file is replaced, with a warning. Raises DataError if the file cannot be written.
    """
    identity = _identity(squid)
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    path = folder / f"squid-rate-{digest}.safetensors"
    if path.exists():
        try:
            return _read(path, identity)
        except (SafetensorError, _Damaged, OSError) as error:
            warnings.warn(f"{path}: {error}. The table is simulated again.", stacklevel=2)
    table = simulate_table(squid)
    metadata = {"parameters": identity, "sha256": _checksum(table)}
    try:
        with replacing(path) as temporary:
            save_file({"rate": table}, temporary, metadata)
    except OSError as error:
        raise DataError(
            f"{path}: the SQUID's rate table cannot be written ({error}). "
            "Set NEURO_DATA to a writable folder, or free disk space."
        ) from error
    return table


class _Damaged(Exception):
    """The content of a file does not match its name or its checksum."""


def _identity(squid: Squid) -> str:
    grid = [I_MIN, I_MAX, I_CELLS, PHI_MAX, PHI_CELLS]
    return json.dumps({"version": VERSION, "grid": grid, **asdict(squid)}, sort_keys=True)


def _checksum(table: Array) -> str:
    return hashlib.sha256(table.tobytes()).hexdigest()


def _read(path: Path, identity: str) -> Array:
    with safe_open(path, "numpy") as file:
        metadata = file.metadata() or {}
        if metadata.get("parameters") != identity or "rate" not in file.keys():  # noqa: SIM118
            raise _Damaged("it was made with other parameters")
        table: Array = file.get_tensor("rate")
    if _checksum(table) != metadata.get("sha256"):
        raise _Damaged("the checksum does not match the content")
    return table


class TableCell(NamedTuple):
    """Cells of the table that contain points: rates at the corners and positions within."""

    low_low: Tensor  # g at the lower current and the lower flux of the cell
    low_high: Tensor  # lower current, higher flux
    high_low: Tensor
    high_high: Tensor
    x: Tensor  # position along the current, in [0, 1]
    y: Tensor  # position along the flux, in [0, 1]
    dx_di: Tensor  # cells per unit of current; 0 outside the table
    dy_dphi: Tensor  # cells per unit of flux; negative where phi mod 1 is above 0.5


def table_cell(phi: Tensor, squid_current: Tensor) -> TableCell:
    """The table's cell of each point; elementwise, any shape, without gradient."""
    table = rate_table(phi.dtype, phi.device)
    within = phi - phi.floor()
    # the table covers half a period: mirror the other half
    y = (0.5 - (within - 0.5).abs()) * (PHI_CELLS / PHI_MAX)
    x = (squid_current.clamp(I_MIN, I_MAX) - I_MIN) * (I_CELLS / (I_MAX - I_MIN))
    # points at the upper ends belong to the last cell
    column, row = y.long().clamp(0, PHI_CELLS - 1), x.long().clamp(0, I_CELLS - 1)
    corner = row * (PHI_CELLS + 1) + column
    inside = (squid_current >= I_MIN) & (squid_current <= I_MAX)
    return TableCell(
        table.take(corner),
        table.take(corner + 1),
        table.take(corner + PHI_CELLS + 1),
        table.take(corner + PHI_CELLS + 2),
        x - row,
        y - column,
        inside * (I_CELLS / (I_MAX - I_MIN)),
        -(within - 0.5).sign() * (PHI_CELLS / PHI_MAX),
    )
