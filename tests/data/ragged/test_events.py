"""Events in files of units and of pixels, binning, and generated recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from neuro.data.inspecting import inspected
from neuro.data.ragged import event_store
from neuro.data.ragged.event_file import write_events as write_samples
from neuro.data.ragged.event_store import Sample
from neuro.data.ragged.events import EventSource
from neuro.data.ragged.made_shd import MadeSHD
from neuro.data.ragged.moving_bars import MovingBars
from neuro.errors import ConfigError, DataError
from tests.data.helpers import write_events

TIMES: list[Any] = [[0.0, 0.003, 0.0031, 0.012], [0.001, 0.02], [0.005], [0.0, 0.004]]
UNITS: list[Any] = [[0, 3, 3, 9], [1, 1], [5], [2, 9]]
LABELS = [0, 1, 1, 0]


def event_source(folder: Path, **options: Any) -> EventSource:
    path = str(folder / "x.h5")
    given = {"train_path": path, "test_path": path, "root": str(folder / "made"), "units": 10}
    return EventSource(**{**given, "val_fraction": 0.25, "group": 2, "dt_ms": 1.0, **options})


class TestUnits:
    def test_are_binned_in_steps_and_groups(self, tmp_path: Path) -> None:
        write_events(tmp_path / "x.h5", TIMES, UNITS, LABELS)
        source = event_source(tmp_path)
        assert source.spec("all").padded and source.input_shape == (5,)
        (batch,) = source.loader("all", "test").batches()
        assert batch.lengths is not None and batch.lengths.tolist() == [13, 21, 6, 5]
        assert batch.inputs[0].nonzero().tolist() == [[0, 0], [3, 1], [12, 4]]
        assert source.spec("all").inputs.coding == "spikes"
        counted = event_source(tmp_path, binary=False, duration_ms=10.0)
        assert counted.spec("all").inputs.coding == "counts"
        (batch,) = counted.loader("all", "test").batches()
        assert batch.inputs.shape == (4, 10, 5) and batch.lengths is None
        assert batch.inputs[0, 3, 1] == 2 and batch.inputs[0].sum() == 3

    def test_are_converted_once_for_each_step(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_events(tmp_path / "x.h5", TIMES, UNITS, LABELS)
        made = []
        convert = event_store._convert
        monkeypatch.setattr(event_store, "_convert", lambda *a: made.append(a) or convert(*a))
        for dt_ms in (1.0, 1.0, 2.0, 1.0):
            event_source(tmp_path, dt_ms=dt_ms).prepare()
        assert len(made) == 2

    @pytest.mark.parametrize(
        ("times", "units", "message"),
        [
            ([0.0, 0.2, 0.1], [0, 0, 0], r"sample 0: times are not sorted, first at event 2"),
            ([-0.1, 0.2], [0, 0], "sample 0: negative or missing times"),
            ([0.1, 0.2], [0, 10], r"sample 0: unit 10; expected 0 to 9 \(data.units\)"),
            ([], [], "sample 0: has no events"),
            ([0.1], [0, 1], "sample 0: 1 times, but 2 addresses"),
            ([3e6], [0], r"sample 0: 3e\+09 steps of 1 ms; are times in seconds"),
        ],
    )
    def test_problems_are_named(
        self, tmp_path: Path, times: list[float], units: list[int], message: str
    ) -> None:
        write_events(tmp_path / "x.h5", [times], [units], [0])
        with pytest.raises(DataError, match=message):
            event_source(tmp_path).prepare()

    def test_more_bins_than_memory_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_events(tmp_path / "x.h5", TIMES, UNITS, LABELS)
        monkeypatch.setattr(event_store, "available_memory", lambda: 100)
        with pytest.raises(DataError, match="21 steps and 5 channels takes .*data.dt_ms"):
            event_source(tmp_path).prepare()

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["labels"] = [0]
        with pytest.raises(DataError, match="no dataset spikes/times .*the layout of SHD"):
            event_source(tmp_path).prepare()
        with pytest.raises(ConfigError, match="data.train_path: .*y.h5: no such file"):
            event_source(tmp_path, train_path=str(tmp_path / "y.h5")).prepare()
        with pytest.raises(ValueError, match="give train_path and test_path"):
            EventSource()
        with pytest.raises(ValueError, match="duration_ms: got 1, less than dt_ms=2"):
            event_source(tmp_path, duration_ms=1.0, dt_ms=2.0)

    def test_are_inspected(self, tmp_path: Path) -> None:
        lines = inspected(write_events(tmp_path / "x.h5", TIMES, UNITS, LABELS))
        assert "4 samples of 1 to 4 events" in lines
        assert "units 0 to 9; times up to 0.02 s" in lines
        write_events(tmp_path / "y.h5", [[0.2, 0.1]], [[0, 0]], [0])
        with pytest.raises(DataError, match="times are not sorted"):
            inspected(tmp_path / "y.h5")


#: t (µs), x, y, p of each sample on a sensor of 4 rows and 6 columns
PIXELS: list[list[list[int]]] = [
    [[0, 1500, 1600, 9000], [0, 5, 5, 2], [0, 3, 3, 1], [0, 1, 1, 0]],
    [[4000], [1], [2], [1]],
]


def pixel_file(path: Path, samples: Any = PIXELS, size: tuple[int, int] = (4, 6)) -> Path:
    made = [
        Sample(np.array(t), tuple(np.array(part) for part in address), label)
        for label, (t, *address) in enumerate(samples)
    ]
    write_samples(path, made, len(made), size)
    return path


class TestPixels:
    def source(self, folder: Path, **options: Any) -> EventSource:
        path = pixel_file(folder / "x.h5")
        given = {"train_path": str(path), "test_path": str(path), "root": str(folder / "made")}
        return EventSource(**{**given, "dt_ms": 1.0, "outputs": 2, **options})

    def test_are_binned_in_maps_of_each_polarity(self, tmp_path: Path) -> None:
        source = self.source(tmp_path)
        assert source.input_shape == (2, 4, 6) and source.spec("all").padded
        (batch,) = source.loader("all", "test").batches()
        assert batch.inputs.shape == (2, 10, 2, 4, 6)
        assert batch.lengths is not None and batch.lengths.tolist() == [10, 5]
        assert batch.inputs[0].nonzero().tolist() == [[0, 0, 0, 0], [1, 1, 3, 5], [9, 0, 1, 2]]
        assert batch.inputs[1].nonzero().tolist() == [[4, 1, 2, 1]]

    def test_are_counted_grouped_and_merged(self, tmp_path: Path) -> None:
        options = {"binary": False, "group": 3, "polarity": "merged", "duration_ms": 8.0}
        source = self.source(tmp_path, **options)
        (batch,) = source.loader("all", "test").batches()
        assert batch.inputs.shape == (2, 8, 1, 2, 2) and batch.lengths is None
        assert batch.inputs[0, 1, 0].tolist() == [[0, 0], [0, 2]]  # rows of 3 and 1 pixels
        assert batch.inputs[0].sum() == 3  # the last event comes later than duration_ms

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            ([[5], [6], [0], [0]], r"sample 0: x 6; expected 0 to 5 \(size 4 x 6\)"),
            ([[5], [0], [4], [0]], r"sample 0: y 4; expected 0 to 3 \(size 4 x 6\)"),
            ([[5], [0], [0], [2]], "sample 0: polarity 2; expected 0 to 1"),
            ([[5, 4], [0, 0], [0, 0], [0, 0]], r"not sorted, first at event 1 \(4 µs after 5 µs"),
            ([[], [], [], []], "sample 0: has no events"),
            ([[5], [0], [0, 1], [0]], "sample 0: 1 times, but 1 and 2 and 1 addresses"),
        ],
    )
    def test_problems_are_named(self, tmp_path: Path, sample: Any, message: str) -> None:
        path = str(pixel_file(tmp_path / "y.h5", [sample]))
        with pytest.raises(DataError, match=message):
            self.source(tmp_path, train_path=path).prepare()
        with pytest.raises(DataError, match=message):
            inspected(Path(path))

    def test_files_that_do_not_fit_are_refused(self, tmp_path: Path) -> None:
        other = pixel_file(tmp_path / "y.h5", size=(4, 8))
        with pytest.raises(DataError, match=r"y.h5: other inputs \(4 x 8 pixels.* \(4 x 6 pixels"):
            self.source(tmp_path, test_path=str(other)).prepare()
        units = write_events(tmp_path / "z.h5", TIMES, UNITS, LABELS)
        with pytest.raises(DataError, match=r"z.h5: other inputs \(700 units, 5 in one\)"):
            self.source(tmp_path, test_path=str(units)).prepare()
        with h5py.File(other, "a") as file:
            del file.attrs["size"]
        with pytest.raises(DataError, match=r"y.h5: attribute size is missing; expected the \[he"):
            self.source(tmp_path, train_path=str(other)).prepare()

    def test_are_inspected(self, tmp_path: Path) -> None:
        lines = inspected(pixel_file(tmp_path / "x.h5"))
        assert "2 samples of 1 to 4 events" in lines
        assert "sensor of 4 x 6 pixels, two polarities; times up to 9000 µs" in lines
        assert "model=scnn" in lines[-1] and "data=events" in lines[-1]

    def test_that_are_all_too_late_leave_empty_steps(self, tmp_path: Path) -> None:
        path = str(pixel_file(tmp_path / "y.h5", [PIXELS[1]] * 3))
        source = self.source(tmp_path, train_path=path, test_path=path, outputs=3, duration_ms=2.0)
        (batch,) = source.loader("all", "test").batches()
        assert batch.inputs.shape == (3, 2, 2, 4, 6) and not batch.inputs.any()


def bars(folder: Path, **options: Any) -> MovingBars:
    small = {"directions": 4, "side": 8, "train": 160, "val": 4, "test": 80}
    return MovingBars(root=str(folder), **{**small, **options})


class TestMovingBars:
    def test_counts_do_not_depend_on_the_class(self, tmp_path: Path) -> None:
        """A readout of time averages is at chance level."""
        source = bars(tmp_path, train=800, test=400)
        counts, labels = {}, {}
        for split in ("train", "test"):
            found = source.sequences("all", split)
            rows = found.read(np.arange(len(found.labels)), ())
            counts[split] = np.array([s.sum(0).ravel() for s in rows])
            labels[split] = found.labels
        model = LogisticRegression(max_iter=300).fit(counts["train"], labels["train"])
        margin = 3 * np.sqrt(0.25 * 0.75 / 400)
        assert abs(model.score(counts["test"], labels["test"]) - 0.25) < margin

    def test_edges_pass_in_the_direction_of_the_class(self, tmp_path: Path) -> None:
        source = bars(tmp_path, noise_hz=0.0, jitter_ms=0.0, dt_ms=1.0, train=8)
        found = source.sequences("all", "train")
        orders = set()
        for label, spikes in zip(found.labels, found.read(np.arange(8), ()), strict=True):
            assert (spikes.sum(0) == 1).all()  # one event of each polarity in each pixel
            times = spikes.argmax(0)
            right, down = (times[..., -1] - times[..., 0]), (times[:, -1] - times[:, 0])
            way = {0: right, 1: -down, 2: -right, 3: down}[int(label)]
            still = down if label % 2 == 0 else right
            assert (way > 0).all() and not still.any()
            orders.add(bool(times[1].mean() < times[0].mean()))  # bright bars, and dark ones
        assert orders == {True, False}

    def test_are_generated_once_from_the_seed(self, tmp_path: Path) -> None:
        one = bars(tmp_path).sequences("all", "test")
        files = sorted(tmp_path.glob("*.h5"))
        assert len(files) == 3 and not list(tmp_path.glob(".*"))
        times = [path.stat().st_mtime_ns for path in files]
        same = bars(tmp_path, dt_ms=10.0).sequences("all", "test")
        assert [path.stat().st_mtime_ns for path in files] == times
        assert np.array_equal(one.labels, same.labels)
        assert set(bars(tmp_path, duration_ms=150.0).sequences("all", "test").lengths) == {30}
        other = bars(tmp_path, split_seed=1).sequences("all", "test")
        assert not np.array_equal(one.lengths, other.lengths)
        assert "well-formed" in inspected(files[0])[-2]

    def test_ranges_are_checked(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"speed_px_s: got \[9.0, 3.0\]; give the lowest"):
            bars(tmp_path, speed_px_s=(9.0, 3.0))
        with pytest.raises(ConfigError, match=r"data.train: got 4\d+ samples, for which .* GiB"):
            bars(tmp_path, train=2**62).prepare()
        with pytest.raises(ConfigError, match=r"samples of 1.\d+e\+10 events: .* Reduce data.si"):
            bars(tmp_path, side=1024, noise_hz=300.0).prepare()
        with pytest.raises(DataError, match="cannot be written"):
            (tmp_path / "file").touch()
            bars(tmp_path / "file").prepare()


class TestMadeSHD:
    def test_has_the_layout_of_shd(self, tmp_path: Path) -> None:
        source = MadeSHD(train=60, test=20, spikes=200, root=str(tmp_path))
        spec = source.spec("all")
        assert spec.inputs.shape == (140,) and spec.classes == tuple(range(20))
        sizes = [len(source.sequences("all", split).labels) for split in ("train", "val", "test")]
        assert sizes == [54, 6, 20]
        (path,) = tmp_path.glob("*-test.h5")
        found = EventSource(train_path=str(path), test_path=str(path), root=str(tmp_path))
        ours, theirs = (s.sequences("all", "test").read(np.arange(20), ()) for s in (source, found))
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert "20 samples of 1" in inspected(path)[1]

    def test_classes_differ_by_their_tracks(self, tmp_path: Path) -> None:
        source = MadeSHD(train=200, test=100, spikes=300, group=50, root=str(tmp_path))
        counts, labels = {}, {}
        for split in ("train", "test"):
            found = source.sequences("all", split)
            rows = found.read(np.arange(len(found.labels)), ())
            counts[split] = np.array([s.sum(0) for s in rows])
            labels[split] = found.labels
        model = LogisticRegression(max_iter=300).fit(counts["train"], labels["train"])
        assert model.score(counts["test"], labels["test"]) > 0.5
