"""mode=opc: masks are optimised, saved, measured and compared with no correction."""

from __future__ import annotations

import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from neuro.__main__ import main
from neuro.data.simulated.optics import Optics
from neuro.learning.inverse_lithography import MaskOptimiser, ProcessWindow, measure
from tests.e2e.helpers import launch_here, read, rows

SMALL = (
    "experiment=lithography_opc", "data.size=32", "data.width_nm=[125,200]", "data.train=1",
    "data.val=1", "data.test=2", "data.kernels=8", "opc.tasks=[contacts,rectangles]",
    "opc.steps=20",
)  # fmt: skip
MEASURES = ("l2_error_nm2", "pv_band_nm2", "epe_nm", "vertices")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run and its console output."""
    path = tmp_path_factory.mktemp("opc") / "run"
    done = launch_here(*SMALL, f"hydra.run.dir={path}")
    assert done.code == 0, done.err
    return path, done.out


def loaded(folder: Path) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.load(file) for file in sorted(folder.iterdir())]))


def test_the_report_is_of_the_saved_masks(run: tuple[Path, str]) -> None:
    path, printed = run
    report = read(path)
    metrics = report["metrics"]
    masks, targets = (loaded(path / name) for name in ("masks", "targets"))
    assert masks.shape == (4, 32, 32)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    window = ProcessWindow(
        Optics(), 32 * 25.0, 8, dose=0.02, defocus_nm=(0.0, 100.0), device=torch.device("cpu")
    )
    for kind, of in (("test", masks), ("uncorrected", targets)):
        found = measure(of, targets, window, threshold=0.225, pixel_nm=25.0)
        for name, value in found._asdict().items():
            assert metrics[f"{kind}/{name}"] == pytest.approx(value)
        assert {f"{kind}/contacts/{name}" for name in MEASURES} <= set(metrics)
    assert report["objective_metric"] == "test/l2_error_nm2"
    assert metrics["test/l2_error_nm2"] < metrics["uncorrected/l2_error_nm2"]
    assert metrics["test/epe_nm"] < metrics["uncorrected/epe_nm"]
    assert "update 20/20" in printed and "4 masks" in printed
    first, last = rows(path)
    assert (first["step"], last["step"]) == (10, 20)
    parts = ("train/l2", "train/pv", "train/variation", "train/grey")
    weights = (1.0, 1.0, 0.02, 0.5 * 19 / 20)
    expected = sum(w * last[part] for w, part in zip(weights, parts, strict=True))
    assert last["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert (path / "plots/masks.png").stat().st_size > 20_000


def test_masks_are_data_and_runs_are_compared(
    run: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = run
    again = launch_here(
        "experiment=lithography_opc", "data=litho_masks", "data.size=32", "opc.steps=1",
        f"data.path={path / 'targets'}", "opc.samples=9", "opc.binary=false", "hydra.run.dir=own",
    )  # fmt: skip
    assert again.code == 0, again.err
    assert len(list(Path("own/masks").iterdir())) == 4  # all available ones
    assert 0 < float(loaded(Path("own/masks")).min()) < 0.5
    assert not main(["compare", str(path), "own"])
    assert "l2_error_nm2" in capsys.readouterr().out


def test_a_signal_saves_the_masks_so_far() -> None:
    step = MaskOptimiser.step

    def interrupted(self: MaskOptimiser) -> object:
        signal.raise_signal(signal.SIGTERM)
        return step(self)

    with mock.patch.object(MaskOptimiser, "step", interrupted):
        done = launch_here(*SMALL, "hydra.run.dir=run")
    assert done.code == 130
    assert "Interrupted at update 1; the masks of it were saved." in done.err
    assert "resume=" not in done.err
    assert len(list(Path("run/masks").iterdir())) == 4
    assert read(Path("run"))["metrics"]["test/vertices"] > 0


def test_a_loss_that_is_not_finite_ends_the_run() -> None:
    done = launch_here(*SMALL, "opc.l2_weight=1e38", "hydra.run.dir=run")
    assert done.code == 3, done.out
    assert "The loss is not finite; lower opc.lr or the weights of opc." in done.err
    assert not Path("run/masks").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("opc.tasks=[contact]",), "opc.tasks: the data have no 'contact'; there are"),
        (("opc.tasks=[contact]",), "Did you mean 'contacts'?"),
        (("opc.tasks=[]",), "opc.tasks: got []; expected at least 1 item"),
        (("opc.samples=0",), "opc.samples: got 0"),
        (("opc.threshold=0",), "opc.threshold: got 0"),
        (("opc.dose=1",), "opc.dose: got 1"),
        (("opc.defocus_nm=[]",), "opc.defocus_nm: got []; expected at least 1 item"),
        (("opc.steps=many",), "opc.steps: got 'many'"),
        (("opc.lr=-1",), "opc.lr: got -1"),
        (("opc.initial=targets",), "Did you mean 'target'?"),
        (("+opc.stesp=3",), "Did you mean 'steps'?"),
        (("opc.l2_weight=0", "opc.pv_weight=0"), "l2_weight and pv_weight are both 0, so"),
        (("+data.optics.source.shap=3",), "Did you mean 'shape'?"),
        (("mode=train",), "opc: optimises masks, with mode=opc, not mode=train"),
        (("repeats=2",), "repeats: is for training"),
        (("init_from=latest",), "init_from: mode=opc has no model"),
    ],
)
def test_invalid_options(overrides: tuple[str, ...], message: str) -> None:
    refused(message, *SMALL, *overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("mode=opc", "experiment=lithography"), "opc: mode=opc needs its keys"),
        (("mode=opc", "opc=default"), "data: mode=opc needs masks and their optics"),
    ],
)
def test_missing_requirements_of_the_mode(overrides: tuple[str, ...], message: str) -> None:
    refused(message, *overrides)


def refused(message: str, *overrides: str) -> None:
    done = launch_here(*overrides, "hydra.run.dir=run")
    assert done.code == 2, done.out
    assert message in done.err and "Traceback" not in done.err
    assert not Path("run").exists()
