"""Comparison of trained runs: multiruns, ablations, evaluations."""

from __future__ import annotations

import csv
import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from neuro.__main__ import main
from tests.e2e.helpers import TINY, launch_here

#: the sweep chooses no trackers itself
SHORT = (
    *(o for o in TINY if not o.startswith(("tracking", "callbacks", "phase"))),
    "callbacks=[calibration]",
)


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The full network and an ablation with two seeds each, and the printed text."""
    directory = tmp_path_factory.mktemp("runs") / "ablation"
    done = launch_here(
        "sweep=ltgate_ablation", *SHORT, "hydra.sweeper.only=[full,no_slow]", "seed=0,1",
        "phase.task1.epochs=1", "phase.task2.epochs=1", f"hydra.sweep.dir={directory}",
        "hydra.callbacks.compare.metrics=[test/accuracy,continual/*]",
        "hydra.callbacks.compare.test=[test/accuracy,continual/bwt]",
    )  # fmt: skip
    assert done.code == 0, done.err
    return directory, done.out


def rows(*arguments: str | Path) -> list[dict[str, str]]:
    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["compare", *map(str, arguments), "--format", "csv"]) == 0
    return list(csv.DictReader(out.getvalue().splitlines()))


def test_ablations_end_with_the_table_and_its_tests(ablation: tuple[Path, str]) -> None:
    directory, out = ablation
    assert out.count("against full: paired by seed") == 1
    assert "p corrected for " in out
    assert "│ no_slow       │ continual/bwt │" in out
    assert " forgetting " in out
    assert " loss " not in out[out.index("confidence interval") :]
    assert f"runs: {directory}" in out


def test_seeds_of_an_ablation_are_one_configuration(ablation: tuple[Path, str]) -> None:
    """data.split_seed follows the seed, so that the resolved configs of seeds differ."""
    found = {row["configuration"]: row for row in rows(ablation[0])}
    assert set(found) == {"full", "no_slow"}
    assert {row["runs"] for row in found.values()} == {row["seeds"] for row in found.values()}
    assert {row["seeds"] for row in found.values()} == {"2"}
    columns = ("model.neuron.gate.kind", "model.neuron.gate.gamma")
    assert [found["no_slow"][c] for c in columns] == ["fixed", "1.0"]
    assert [found["full"][c] for c in columns] == ["variance", "0.5"]


def test_the_page_of_real_runs(ablation: tuple[Path, str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    arguments = ["compare", str(ablation[0]), "--baseline", "name=full", "--output", str(page)]
    assert main(arguments) == 0
    text = page.read_text()
    for part in (
        "Significance",
        'id="curves"',
        'id="matrices"',
        'id="pareto"',
        "model.neuron.gate.gamma",
    ):
        assert part in text
    assert "val/accuracy over optimizer steps" in text


def test_an_evaluation_is_a_configuration_of_its_own(
    ablation: tuple[Path, str], tmp_path: Path
) -> None:
    directory = ablation[0]
    done = launch_here(
        "mode=evaluate", f"run={directory / '0'}", "data.coding=poisson",
        f"hydra.run.dir={tmp_path / 'evaluated'}",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = rows(directory / "0", tmp_path / "evaluated")
    assert {row["mode"] for row in found} == {"train", "evaluate"}
    assert {row["data.coding"] for row in found} == {"analog", "poisson"}


def test_a_run_of_the_ablations_is_resumed_alone(ablation: tuple[Path, str]) -> None:
    """The key that starts several runs is not in the config of the single runs."""
    done = launch_here(f"resume={ablation[0] / '0'}")
    assert done.code == 0, done.err
    assert "is complete; there is nothing left to do" in done.out
