"""Spikes of 700 channels with the layout and the size of SHD, to measure time and memory.

The Spiking Heidelberg Digits (Cramer et al. 2020) are spoken digits through a model of the cochlea.
Here each of 20 classes has formants, tracks that rise or fall over the channels while the word
lasts; spikes lie around them, with a shift of pitch and a speed for each sample. Accuracies on it
say nothing about those on SHD.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from neuro.config.types import Count
from neuro.data.ragged.event_store import Binning, Sample
from neuro.data.ragged.events import Milliseconds
from neuro.data.ragged.made_events import MadeEvents

CHANNELS, CLASSES = 700, 20
FORMANTS = 3  # of a class
SPREAD = 15.0  # channels around a formant, standard deviation
PITCH = 20.0  # channels by which a sample is shifted, standard deviation
DURATION_S = (0.4, 1.2)  # of a word, drawn uniformly


class MadeSHD(MadeEvents):
    """Twenty classes. Keys are explained in `conf/data/made_shd.yaml`."""

    name = "made_shd"

    def __init__(
        self,
        *,
        train: Count = 8156,
        test: Count = 2264,
        spikes: Annotated[int, Interval(ge=1, le=10_000_000)] = 8000,
        group: Annotated[int, Interval(ge=1, le=CHANNELS)] = 5,
        dt_ms: Milliseconds = 10.0,
        batch_size: Count = 64,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
        root: str | None = None,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        super().__init__(
            counts={"train": train, "test": test},
            classes=CLASSES,
            group=group,
            binning=Binning(dt_ms),
            root=root,
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        self.spikes = spikes

    def _shaping(self) -> dict[str, Any]:
        return {"spikes": self.spikes}

    def _largest(self) -> tuple[float, str]:
        return self.spikes, "data.spikes"

    def _sample(self, label: int, rng: np.random.Generator) -> Sample:
        formants = np.random.default_rng([label, self.split_seed])
        tracks = formants.uniform(0, CHANNELS, (FORMANTS, 2))  # channel at the begin and the end
        duration_s = rng.uniform(*DURATION_S)
        # at least one, because samples without spikes are refused
        count = max(1, rng.poisson(self.spikes))
        begin, end = tracks[rng.integers(0, FORMANTS, count)].T
        progress = rng.random(count)
        channels = begin + (end - begin) * progress + rng.normal(0, PITCH)
        channels += rng.normal(0, SPREAD, count)
        units = np.clip(channels.astype(np.int64), 0, CHANNELS - 1)
        return Sample(duration_s * progress, (units,), label)
