"""The SQUID's rate table against the check values, an independent simulation, and its file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file
from scipy.integrate import solve_ivp

from neuro.errors import DataError
from neuro.ops import source_function, squid
from neuro.ops.squid import I_CELLS, I_MAX, I_MIN, PHI_CELLS, Squid, cached_table, simulate

# phi, i, g: of the specification, to four digits
CHECKS = [
    (0.5, 1.2, 0.2159),
    (0.3, 1.7, 0.3601),
    (0.4, 1.7, 0.4716),
    (0.5, 1.7, 0.5025),
    (0.0, 2.1, 0.3288),
    (0.5, 2.5, 0.8874),
]
# phi, i: between grid points, away from the axes and the onset
OFF_GRID = [(0.1234, 2.0567), (0.3377, 1.6112), (0.4771, 1.2333), (0.0522, 2.4444)]


def lookup(phi: float, i: float) -> float:
    at = torch.tensor((phi, i), dtype=torch.float64)
    return source_function("table", at[0], at[1]).item()


@pytest.mark.parametrize(("phi", "i", "g"), CHECKS)
def test_table_and_simulation_agree_with_the_check_values(phi: float, i: float, g: float) -> None:
    assert lookup(phi, i) == pytest.approx(g, abs=1e-3)
    assert simulate(np.array([i]), np.array([phi]))[0] == pytest.approx(g, abs=1e-4)


def voltage(phi: float, i: float) -> float:
    """The mean voltage from the circuit equations by scipy: over 40 turns, after 10 to settle."""

    def slope(_: float, y: NDArray[np.float64]) -> list[float]:
        ring = (2 * np.pi * phi - (y[0] - y[1])) / (np.pi / 2)
        first, second = (i + ring) / 2, (i - ring) / 2
        return [
            y[2],
            y[3],
            (first - y[2] - np.sin(y[0])) / 0.3,
            (second - y[3] - np.sin(y[1])) / 0.3,
        ]

    def turns(number: int):
        return lambda _, y: y[0] + y[1] - 4 * np.pi * number

    start, end = turns(10), turns(50)
    end.terminal = True  # type: ignore[attr-defined]
    found = solve_ivp(slope, (0, 1e4), np.zeros(4), "DOP853", None, events=[start, end], rtol=1e-8)
    return 2 * np.pi * 40 / (found.t_events[1][0] - found.t_events[0][0])


@pytest.mark.parametrize(("phi", "i"), OFF_GRID)
def test_between_its_points_the_table_agrees_with_scipy(phi: float, i: float) -> None:
    independent = voltage(phi, i)
    assert simulate(np.array([i]), np.array([phi]))[0] == pytest.approx(independent, abs=2e-6)
    assert lookup(phi, i) == pytest.approx(independent, abs=2e-3)


def test_interpolation_has_the_documented_error() -> None:
    """98 % of random points within .002, those at the onset within .04."""
    rng = np.random.default_rng(0)
    i, phi = rng.uniform(I_MIN, I_MAX, 300), rng.uniform(0, 0.5, 300)
    exact = simulate(i, phi)
    g = source_function("table", torch.from_numpy(phi), torch.from_numpy(i))
    error = np.abs(g.numpy() - exact)
    assert (error < 0.002).mean() > 0.98
    assert error.max() < 0.04
    assert exact[error > 0.002].max() < 0.15


def test_finer_steps_change_the_rates_by_less_than_1e_6() -> None:
    i, phi = np.array([1.2, 1.7, 2.1, 2.5]), np.array([0.5, 0.3, 0.0, 0.5])
    fine = simulate(i, phi, Squid(step=0.025, tolerance=1e-9))
    np.testing.assert_allclose(simulate(i, phi), fine, rtol=0, atol=1e-6)


def test_table_is_even_periodic_and_constant_beyond_its_edges() -> None:
    phi, i = torch.rand(200, dtype=torch.float64), 0.5 + 2.5 * torch.rand(200, dtype=torch.float64)
    g = source_function("table", phi, i)
    for other in (1 - phi, -phi, phi + 3, phi - 7):
        torch.testing.assert_close(source_function("table", other, i), g)
    assert torch.equal(g, source_function("table", phi, i.clamp(I_MIN, I_MAX)))
    beyond = torch.tensor([0.2, I_MAX + 0.1], dtype=torch.float64, requires_grad=True)
    g = source_function("table", torch.full_like(beyond, 0.4), beyond)
    assert torch.autograd.grad(g.sum(), beyond)[0].tolist() == [0, 0]


class TableSimulated(Exception):
    """Raised in place of the simulation, which takes seconds."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the table's file; another simulation raises TableSimulated."""
    cached = squid.rate_table(torch.float64, torch.device("cpu")).numpy()
    monkeypatch.setattr(squid, "simulate_table", lambda squid: cached)
    cached_table(tmp_path)

    def refuse(squid: Squid) -> None:
        raise TableSimulated

    monkeypatch.setattr(squid, "simulate_table", refuse)
    return tmp_path


def test_the_file_is_reused_for_equal_parameters_only(folder: Path) -> None:
    assert cached_table(folder).shape == (I_CELLS + 1, PHI_CELLS + 1)
    with pytest.raises(TableSimulated):
        cached_table(folder, Squid(beta_c=0.31))


def test_a_new_version_is_simulated_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squid, "VERSION", squid.VERSION + 1)
    with pytest.raises(TableSimulated):
        cached_table(folder)


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def exchange(path: Path) -> None:
    with safe_open(path, "numpy") as file:
        table, metadata = file.get_tensor("rate"), file.metadata()
    save_file({"rate": table}, path, metadata | {"parameters": "others"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_bytes, "checksum does not match the content. The table is simulated again"),
        (truncate, "The table is simulated again"),
        (exchange, "made with other parameters. The table is simulated again"),
    ],
)
def test_a_damaged_file_is_replaced_with_a_warning(folder: Path, damage, message: str) -> None:
    damage(next(folder.iterdir()))
    with pytest.warns(UserWarning, match=message), pytest.raises(TableSimulated):
        cached_table(folder)


def test_a_folder_that_cannot_be_written_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squid, "simulate_table", lambda squid: np.zeros((2, 2)))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="rate table cannot be written.*Set NEURO_DATA"):
        cached_table(tmp_path / "file")


def test_the_file_is_in_the_data_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEURO_DATA", str(folder))
    float16 = squid.rate_table(torch.float16, torch.device("cpu"))
    assert float16.dtype == torch.float16
    shutil.rmtree(folder)
    assert squid.rate_table(torch.float16, torch.device("cpu")) is float16
    squid.rate_table.cache_clear()
