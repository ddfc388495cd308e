"""mode=check with `check_batches`: time and memory of an update by batch size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from neuro.experiment import batch_sizes
from neuro.experiment.batch_sizes import Cost
from neuro.runtime.memory import peak_memory, reset_peak_memory
from tests.e2e.helpers import TINY, launch_here
from tests.test_conf import compose


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def table(out: str) -> list[list[str]]:
    """The cells of the table's rows, with the heading."""
    part = out[out.index("memory by batch size") :]
    rows = [re.split(r"[│┃]", line) for line in part.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in row[1:-1]] for row in rows]


def test_sizes_are_measured_on_request() -> None:
    done = launch_here(*TINY, "mode=check", "check_batches=[2,9]", "hydra.run.dir=checked")
    assert done.code == 0, done.err
    heading, *rows = table(done.out)
    assert heading == ["data.batch_size", "memory", "left", "s/update", "samples/s"]
    assert [row[0] for row in rows] == ["2", "9"]
    for size, memory, left, seconds, rate in rows:
        assert memory.endswith("iB") and left.endswith("iB")
        assert float(rate.replace(",", "")) == pytest.approx(int(size) / float(seconds), rel=0.1)


def test_language_models_get_a_table_of_streams() -> None:
    Path("corpus").mkdir()
    for number in range(12):
        Path("corpus", f"{number}.txt").write_text(f"{number:2d} " * 7)
    assert compose()["check_batches"] is None
    done = launch_here(
        "rule=language", "model=gru_lm", "model.dim=8", "data=text", "data.path=corpus",
        "data.root=made", "data.streams=4", "data.span=8", "phase=single", "tracking=none",
        "mode=check", "hydra.run.dir=checked",
    )  # fmt: skip
    assert done.code == 0, done.err
    heading, *rows = table(done.out)
    assert heading[0] == "data.streams" and heading[-1] == "tokens/s"
    assert [row[0] for row in rows] == ["2", "4", "8", "16"]


def test_sizes_beyond_memory_or_time_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(parts: object, phase: object, fabric: object, samples: int | None = None) -> Cost:
        if samples == 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return Cost(0.01 * (samples or 8), 2**20 * (samples or 8))

    monkeypatch.setattr(batch_sizes, "update_cost", cost)
    monkeypatch.setattr("neuro.experiment.check.update_cost", cost)
    monkeypatch.setattr(batch_sizes, "_memory_of", lambda device: 600 * 2**20)
    done = launch_here(
        *TINY, "mode=check", "check_batches=[16,40,640,2000]", "data.batch_size=8",
        "hydra.run.dir=checked",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert table(done.out)[1:] == [
        ["16", "16.0 MiB", "0.6 GiB", "0.160", "100"],
        ["40", "does not fit", "-", "-", "-"],
        ["640", "does not fit", "-", "-", "-"],
        ["2000", "-", "-", "about 20", "not measured"],
    ]


@pytest.mark.parametrize("given", ["[]", "[0]", "3", "all"])
def test_other_values_are_refused(given: str) -> None:
    done = launch_here(*TINY, "mode=check", f"check_batches={given}")
    assert done.code == 2
    assert "check_batches" in done.err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_the_peak_of_memory_can_be_reset() -> None:
    block = b"x" * 2**28
    high = peak_memory()
    del block
    reset_peak_memory()
    assert peak_memory() < high - 2**27
