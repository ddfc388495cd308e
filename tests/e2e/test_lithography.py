"""From masks to aerial images: training, reports, other optics, and user masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from neuro.analysis.plots import images
from tests.data.helpers import write_gds
from tests.e2e.helpers import launch_here, read, rows, train_here

SMALL = (
    "experiment=lithography", "data.size=32", "data.width_nm=[125,200]", "data.train=6",
    "data.val=2", "data.test=3", "model.kernels=6", "model.frequencies=11", "phase.main.epochs=12",
    "data.batch_size=8", "tracking=none",
)  # fmt: skip
METRICS = ("mse", "psnr", "ssim", "iou", "pixel_accuracy", "epe_nm", "cd_error_nm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_here(tmp_path_factory.mktemp("litho") / "run", *SMALL)


def test_metrics_are_reported_per_family(trained: Path) -> None:
    report = read(trained)
    for task in ("seen", "unseen", "contacts", "l_shapes"):
        for metric in METRICS:
            assert f"test/{task}/{metric}" in report["metrics"]
    assert report["objective_metric"] == "test/mse"
    first, *_ = (row["val/loss"] for row in rows(trained) if "val/loss" in row)
    assert report["metrics"]["test/seen/mse"] < 0.2 * first
    assert {"images", "training"} <= {p.stem for p in (trained / "plots").iterdir()}


def test_a_table_of_tasks_by_metrics(trained: Path) -> None:
    log = (trained / "run.log").read_text()
    assert "test, after main" in log
    (line,) = [line for line in log.splitlines() if "│unseen" in line]
    assert line.count("│") == 2 + len(METRICS)  # a cell for the task and each metric


def test_other_optics_are_another_test(trained: Path) -> None:
    done = launch_here(
        "mode=evaluate", f"run={trained}", "data.optics.defocus_nm=250", "hydra.run.dir=other"
    )
    assert done.code == 0, done.err
    before, after = (read(run)["metrics"]["test/seen/mse"] for run in (trained, Path("other")))
    assert after > 1.5 * before


def test_a_model_is_tuned_to_other_optics_and_averaged_with_the_first(trained: Path) -> None:
    """The mean of two images has a smaller squared error than the mean of their errors."""
    given = [o for o in SMALL if not o.startswith("experiment=")]
    tuned = train_here(
        Path("tuned"), "experiment=lithography_transfer", f"init_from={trained}", *given
    )
    assert read(tuned)["metrics"]["test/seen/mse"] < 0.01
    done = launch_here(
        "mode=evaluate", f"run=[{trained},{tuned}]", "ensemble=mean", "hydra.run.dir=together",
        "data.optics.defocus_nm=50",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = read(Path("together"))
    errors = [member["metrics"]["test/unseen/mse"] for member in report["members"]]
    assert report["metrics"]["test/unseen/mse"] < sum(errors) / 2


def test_images_of_user_masks(trained: Path, tmp_path: Path) -> None:
    masks = np.zeros((32, 64), np.uint8)
    masks[8:20, 10:50] = 1
    np.save(tmp_path / "mine.npy", masks)
    given = ("mode=predict", f"run={trained}", "data=litho_masks", "data.size=32")
    done = launch_here(*given, f"data.path={tmp_path / 'mine.npy'}", "hydra.run.dir=out")
    assert done.code == 0, done.err
    with h5py.File("out/predictions.h5") as file:
        prediction, target = file["all/prediction"][:], file["all/target"][:]
    assert prediction.shape == target.shape == (2, 1, 32, 32)
    assert np.abs(prediction - target).mean() < 0.15
    assert Path("out/predictions.png").stat().st_size > 10_000
    done = launch_here(*given, "data.path=nowhere.png", "hydra.run.dir=no")
    assert done.code == 2 and "nowhere.png: no such file" in done.err
    np.save(tmp_path / "odd.npy", masks[:30])
    done = launch_here(*given, f"data.path={tmp_path / 'odd.npy'}", "hydra.run.dir=no")
    assert "30 x 64 pixels are no multiple of tiles of 32 x 32" in done.err
    assert not Path("no").exists()


def test_layouts(trained: Path, tmp_path: Path) -> None:
    """A model trained on random masks is tested on layouts and predicts one image."""
    cells = {f"c{n}": [(0, 0, 400 + 50 * n, 150), (0, 0, 150, 600)] for n in range(4)}
    path = write_gds(tmp_path / "cells.gds", cells, layer=(67, 20))
    given = (f"run={trained}", f"data.path={path}", "data.size=32")
    done = launch_here("mode=evaluate", "data=litho_layout", *given, "hydra.run.dir=test")
    assert done.code == 0, done.err
    assert set(read(Path("test"))["metrics"]) >= {"test/all/mse", "test/all/iou"}
    chosen = ("mode=predict", "data=litho_masks", *given, "data.layer=[67,20]", "hydra.run.dir=out")
    done = launch_here(*chosen)
    assert done.code == 0, done.err
    with h5py.File("out/predictions.h5") as file:
        assert file["all/prediction"].shape == (4, 1, 32, 32)
    fresh = ("experiment=litho_layout", *given[1:], "hydra.run.dir=no", "data.root=no_data")
    done = launch_here(*fresh, "data.layer=[68,20]")
    assert done.code == 2 and "no layer 68/20; there are 67/20" in done.err
    assert not Path("no").exists() and not Path("no_data").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.pixel_nm=80",), "data.pixel_nm: got 80 nm"),
        (("data.optics.na=1.6",), "data.optics.na: got 1.6"),
        (("data.optics.source.shape=anular",), "data.optics.source.shape"),
        (("data.held_out=squares",), "data.held_out"),
        (("callbacks.images.tasks=[sen]",), "Did you mean 'seen'?"),
        (("data/transforms=[shift]",), "data.transforms.shift: fills the edge with dark"),
    ],
)
def test_invalid_options(overrides: tuple[str, ...], message: str) -> None:
    done = launch_here(*SMALL, *overrides, "hydra.run.dir=run")
    assert done.code == 2, done.out
    assert message in done.err and "Traceback" not in done.err
    assert not Path("run").exists()


def test_a_model_of_sequences_of_spikes_does_not_fit() -> None:
    few = ("data.train=2", "data.val=1", "data.test=1")
    done = launch_here("experiment=lithography", "model=lif", *few, "hydra.run.dir=run")
    assert done.code == 2
    assert "Use a model of images" in done.err and "Traceback" not in done.err


@pytest.mark.slow
def test_learned_kernels_are_compared_with_those_of_the_optics() -> None:
    """Similarity grows with training; the number of compared kernels is configurable."""
    found = {}
    for epochs, count in ((1, 2), (12, 2), (12, 6)):
        run = train_here(
            Path(f"{epochs}-{count}"), *SMALL, f"phase.main.epochs={epochs}",
            "callbacks=[kernel_recovery]", f"callbacks.kernel_recovery.kernels={count}",
        )  # fmt: skip
        found[epochs, count] = read(run)["metrics"]
    error, angle = "optics/operator_error", "optics/subspace_angle_deg"
    assert found[12, 2][error] < 0.8 * found[1, 2][error]
    assert found[12, 6][angle] > found[12, 2][angle]
    small = [o for o in SMALL if not o.startswith("model.")]
    other = ("model=fno", "model.modes=8", "phase.main.epochs=1", "hydra.run.dir=other")
    done = launch_here(*small, *other)
    assert done.code == 0, done.err
    assert "callbacks.kernel_recovery: " in done.out + done.err  # left out, with a note
    assert error not in read(Path("other"))["metrics"]


def test_plot_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plotted tasks, interval, contour threshold and axis unit."""
    calls: list[tuple[list[str], dict[str, Any]]] = []
    draw = images.predictions

    def recorded(samples: Sequence[images.Sample], **options: Any) -> Any:
        calls.append(([sample.name for sample in samples], options))
        return draw(samples, **options)

    monkeypatch.setattr(images, "predictions", recorded)
    own = ("callbacks=[images]", "phase.main.epochs=4")
    train_here(Path("default"), *SMALL, *own)
    ((names, options),) = calls
    assert names == ["vertical_lines", "horizontal_lines", "contacts", "l_shapes", "rectangles"]
    assert (options["threshold"], options["pixel_nm"]) == (0.225, 25.0)
    calls.clear()
    train_here(
        Path("chosen"), *SMALL, *own, "callbacks.images.tasks=[unseen]",
        "callbacks.images.threshold=0.3", "callbacks.images.pixel_nm=10.0",
        "callbacks.images.every_epochs=2",
    )  # fmt: skip
    assert [names for names, _ in calls] == [["unseen"], ["unseen"]]  # after 2 epochs, at the end
    assert {(o["threshold"], o["pixel_nm"]) for _, o in calls} == {(0.3, 10.0)}
