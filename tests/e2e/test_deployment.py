"""mode=export, mode=benchmark and `neuro info` on one finished run."""

from __future__ import annotations

from pathlib import Path

import pytest

from neuro.__main__ import main
from tests.e2e.helpers import SINGLE, launch_here, read, train_here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    given = [*SINGLE, "model=lif", "rule=surrogate"]
    return train_here(tmp_path_factory.mktemp("deployed") / "run", *given)


def test_export_writes_a_graph_and_its_costs(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    done = launch_here("mode=export", f"run={run}", "format=torchscript", f"hydra.run.dir={out}")
    assert done.code == 0, done.err
    assert (out / "model.ts").is_file()
    content = read(out, "export.json")
    assert content["inputs"]["shape"] == [1, 8, 1, 8, 8] and content["largest_difference"] < 1e-4


def test_benchmark_measures_each_size(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "benchmark"
    done = launch_here(
        "mode=benchmark", f"run={run}", "benchmark.batches=[1,3]", "benchmark.steps=[2,4]",
        "benchmark.repeats=2", f"hydra.run.dir={out}",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = read(out, "benchmark.json")
    assert [(row["batch"], row["steps"]) for row in found] == [(1, 2), (1, 4), (3, 2), (3, 4)]
    assert all(row["ms"] > 0 and row["sequences_per_s"] > 0 for row in found)
    assert "sequences/s" in done.out


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_info_describes_a_run_or_a_file(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(run / name)]) == 0
    out = capsys.readouterr().out
    assert "SpikingCNN" in out and "layers.conv1" in out and "state of a sequence" in out


def test_info_of_a_missing_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err


def test_plastic_state_is_refused_with_one_message(tmp_path: Path) -> None:
    plastic = train_here(tmp_path / "run", *SINGLE)
    done = launch_here(
        "mode=export", f"run={plastic}", "format=torchscript", f"hydra.run.dir={tmp_path / 'out'}"
    )
    assert done.code == 2
    assert done.err.count("mode=export: SpikingCNN has plastic state") == 1
