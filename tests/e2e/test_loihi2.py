"""`hardware=loihi2` from the command line: checks before training, evaluation and report after."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.e2e.helpers import SINGLE, SURROGATE, TINY, Outcome, launch_here, read, train_here

ENGINE = ("hardware=loihi2", "hardware.backend=engine")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A curriculum trained on this machine and evaluated on the engine."""
    return train_here(tmp_path_factory.mktemp("loihi2") / "run", *TINY, *ENGINE)


def evaluated(run: Path, directory: Path, *overrides: str) -> Outcome:
    return launch_here("mode=evaluate", f"run={run}", f"hydra.run.dir={directory}", *overrides)


@pytest.mark.slow
def test_a_curriculum_has_a_matrix_on_the_chip(deployed: Path) -> None:
    report = read(deployed)
    hardware = report["hardware"]
    assert hardware["backend"] == "Loihi 2 arithmetic, simulated: bit-exact integer engine"
    found = hardware["continual"]
    assert found["tasks"] == ["fast", "slow"]
    assert found["matrix"][1] == [hardware["scores"][task]["accuracy"] for task in ("fast", "slow")]
    assert {"acc", "bwt", "forgetting"} <= found.keys()
    model = {task: report["metrics"][f"test/{task}/accuracy"] for task in ("fast", "slow")}
    assert {t: row["model"] for t, row in hardware["accuracies"].items()} == model


def test_an_objective_on_the_chip(deployed: Path, tmp_path: Path) -> None:
    metrics = read(deployed)["metrics"]
    assert metrics["hardware/cores"] == read(deployed)["hardware"]["mapping"]["cores"]
    done = evaluated(deployed, tmp_path / "again", "trainer.objective=hardware/energy_uj_high")
    assert done.code == 0, done.err
    assert read(tmp_path / "again")["objective"] == metrics["hardware/energy_uj_high"]
    done = launch_here(
        *TINY, "trainer.objective=hardware/cores", f"hydra.run.dir={tmp_path / 'none'}"
    )
    assert done.code == 2  # without hardware=loihi2 there is no such metric
    assert "trainer.objective: this run produces no 'hardware/cores'" in done.err


def test_plots_and_exported_networks(deployed: Path) -> None:
    plots = {path.name for path in (deployed / "plots").iterdir()}
    assert {"cores.png", "membranes.png", "hardware_accuracy.png"} <= plots
    exported = {path.name for path in (deployed / "hardware").iterdir()}
    assert exported == {
        f"network-{step}ms.{suffix}" for step in (1, 20) for suffix in ("nir", "safetensors")
    }


def test_a_finished_run_is_evaluated_on_the_chip(finished: Path, tmp_path: Path) -> None:
    done = evaluated(finished, tmp_path / "chip", *ENGINE)
    assert done.code == 0, done.err
    for text in ("accuracy, integer engine", "cores: ", "per inference", "evaluated on: Loihi 2"):
        assert text in done.out
    hardware = read(tmp_path / "chip")["hardware"]
    before = read(finished)["continual"]["matrix"]
    assert len(hardware["continual"]["matrix"]) == len(before) == 2


def test_an_intermediate_checkpoint_has_no_matrix(finished: Path, tmp_path: Path) -> None:
    done = evaluated(finished, tmp_path / "chip", *ENGINE, "checkpoint=task1-final")
    assert done.code == 0, done.err
    assert "continual" not in read(tmp_path / "chip")["hardware"]


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_lava_and_the_engine_agree(finished: Path, tmp_path: Path) -> None:
    done = evaluated(finished, tmp_path / "chip", "hardware=loihi2", "hardware.samples=2")
    assert done.code == 0, done.err
    hardware = read(tmp_path / "chip")["hardware"]
    assert "lava-nc" in hardware["backend"]
    for task in ("fast", "slow"):
        assert hardware["lava"][task]["equals_engine"] is True
        assert hardware["samples"][task]["lava"] == 2
    assert "Lava (2/2 samples)" in done.out


def test_training_with_fixed_point_gives_equal_results_on_the_engine(tmp_path: Path) -> None:
    fixed = "model.fixed_point={weight_bits: 5, input_bits: 5}"
    run = train_here(tmp_path / "run", *SINGLE, *SURROGATE, *ENGINE, fixed)
    hardware = read(run)["hardware"]
    for found in hardware["accuracies"].values():
        assert found["engine"] == found["model"]
    for found in hardware["agreement"].values():
        assert set(found["engine_with_model"]["spikes"].values()) == {1.0}
    assert hardware["quantisation"]["weight_bits"] == 5


@pytest.mark.parametrize(
    "overrides, expected",
    [
        (("hardware.weight_bits=9",), "hardware.weight_bits: got 9"),
        (("hardware.input_bits=2",), "hardware.input_bits: got 2"),
        (("hardware.backend=board",), "hardware.backend: got 'board'; input should be 'sim' or"),
        (("hardware.backend=chip",), "needs Intel's Loihi extension of Lava, a board, and neuro"),
        (("hardware.sampels=3",), "Did you mean 'samples'?"),
        (("model.dense_units=600000", "model.readout_layers=[conv1]"), "layer 'dense'"),
    ],
)
def test_bad_input_ends_before_training(
    overrides: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    chosen = {override.partition("=")[0] for override in overrides}
    base = [o for o in (*TINY, *ENGINE) if o.partition("=")[0] not in chosen]
    done = launch_here(*base, *overrides, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.code == 2
    assert expected in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_layer_graph(tmp_path: Path) -> None:
    small = [o for o in TINY if not o.startswith(("model.", "callbacks"))]
    done = launch_here(
        *small, *ENGINE, "model=pixels", "callbacks=[]", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.code == 2
    assert "hardware: Loihi2 needs a Deployable model, which Pixels is not. Use hardware=auto" in (
        done.err
    )


def test_more_samples_than_there_are(tmp_path: Path) -> None:
    done = launch_here(
        *TINY, "hardware=loihi2", "hardware.samples=11", f"hydra.run.dir={tmp_path / 'run'}"
    )
    assert done.code == 2
    assert "hardware.samples: got 11 for task 'fast', which has 10 test samples" in done.err


def test_a_run_without_weights(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run", ignore=lambda *_: ["checkpoints"])
    done = evaluated(run, tmp_path / "chip", *ENGINE)
    assert done.code == 2
    assert "has no 'last'. It has: none." in done.err
