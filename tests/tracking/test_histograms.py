"""Histograms are logged by trackers that support them, and ignored by the others."""

from __future__ import annotations

import numpy as np

from neuro.tracking.base import Trackers
from neuro.tracking.csv import CsvTracker
from neuro.tracking.jsonl import JsonlTracker, read_rows
from neuro.tracking.tensorboard import TensorBoardTracker
from neuro.tracking.wandb import WandbTracker
from tests.tracking.test_files import events, info
from tests.tracking.test_wandb import fake  # noqa: F401  (a fixture)

VALUES = np.array([0.0, 0.1, 0.1, 0.9])


def test_tensorboard_shows_them(tmp_path):
    tracker = Trackers((JsonlTracker(), CsvTracker(), TensorBoardTracker()))
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1.0}, 3)
    tracker.log_histogram("weights/J.0_to_1", VALUES, 3)
    tracker.finish("completed")
    (event,) = events(tmp_path).Histograms("weights/J.0_to_1")
    assert (event.step, event.histogram_value.num) == (3, 4)
    assert (event.histogram_value.min, event.histogram_value.max) == (0.0, 0.9)
    (row,) = read_rows(tmp_path)
    assert "weights/J.0_to_1" not in row


def test_wandb_gets_counts(tmp_path, fake):  # noqa: F811
    tracker = WandbTracker(mode="online", entity="lab")
    tracker.start(info(tmp_path), {})
    tracker.log_histogram("weights/J.0_to_1", VALUES, 3)
    tracker.finish("completed")
    ((step, row),) = fake.rows
    assert step == 3
    histogram = row["weights/J.0_to_1"]
    assert sum(histogram.histogram) == 4 and histogram.bins[0] == 0.0
    off = WandbTracker(mode="disabled")
    off.start(info(tmp_path), {})
    off.log_histogram("weights/J.0_to_1", VALUES, 4)
    assert len(fake.rows) == 1
