"""Encoders of analog sequences `[T, C]` as input currents or spikes of a network.

Each frame becomes `steps` time steps. Values are brought to a common range first, measured for each
channel on the training split: mean 0 and variance 1 for currents, 0 to 1 for the others.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from annotated_types import Gt, Interval, Le

from neuro.data.ragged.source import Sequences
from neuro.data.store import Array

Steps = Annotated[int, Interval(ge=1, le=10_000)]


class Statistics(NamedTuple):
    """Of each channel over all frames of the training split, `[C]`."""

    mean: Array
    deviation: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, sequences: Sequence[Array]) -> Statistics:
        """Measured on sequences `[T, C]`."""
        frames = np.concatenate(sequences)
        return cls(frames.mean(0), frames.std(0), frames.min(0), frames.max(0))

    def standard(self, sequence: Array) -> Array:
        """Values with mean 0 and variance 1; constant channels are 0."""
        scaled: Array = (sequence - self.mean) / np.where(self.deviation > 0, self.deviation, 1)
        return scaled

    def unit(self, sequence: Array) -> Array:
        """Values in [0, 1]; those beyond the training split's are clipped."""
        width = np.where(self.high > self.low, self.high - self.low, 1)
        scaled: Array = np.clip((sequence - self.low) / width, 0, 1)
        return scaled


class Encoder(ABC):
    """A map of analog sequences to the inputs of a network, a component of a data source."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    #: whether all values are 0 or 1
    makes_spikes: bool = False

    def __init__(self, steps: Steps = 1):
        self.steps = steps

    def width(self, channels: int) -> int:
        """Channels of the encoded sequence."""
        return channels

    def __call__(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        """Encode `[T, C]` as `[T * steps, width]`, float32."""
        return self._encode(sequence, statistics, rng).astype(np.float32)

    @abstractmethod
    def _encode(
        self, sequence: Array, statistics: Statistics, rng: np.random.Generator
    ) -> Array: ...


class CurrentEncoder(Encoder):
    """Values as currents, each frame held for `steps` steps."""

    def _encode(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        return np.repeat(statistics.standard(sequence), self.steps, axis=0)


class RateEncoder(Encoder):
    """A spike in each step with the probability `largest` times the value; drawn in every epoch."""

    makes_spikes = True

    def __init__(self, steps: Steps = 10, largest: Annotated[float, Gt(0), Le(1)] = 0.5):
        super().__init__(steps)
        self.largest = largest

    def _encode(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        chances = np.repeat(self.largest * statistics.unit(sequence), self.steps, axis=0)
        return rng.random(chances.shape) < chances


class LatencyEncoder(Encoder):
    """One spike per frame and channel: the larger the value, the earlier; none for the least."""

    makes_spikes = True

    def __init__(self, steps: Annotated[int, Interval(ge=2, le=10_000)] = 10):
        super().__init__(steps)

    def _encode(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        unit = statistics.unit(sequence)
        times = np.minimum(((1 - unit) * self.steps).astype(int), self.steps - 1)
        spikes = np.arange(self.steps)[:, None] == times[:, None]
        return (spikes & (unit > 0)[:, None]).reshape(-1, sequence.shape[1])


class DeltaEncoder(Encoder):
    """Send on change: spikes of rising and falling channels, `[T * steps, 2 C]`.

    Each channel spikes whenever its value (interpolated between frames) has moved by `threshold`,
    a fraction of its range, since its last spike; at most once in a step.
    """

    makes_spikes = True

    def __init__(self, steps: Steps = 10, threshold: Annotated[float, Gt(0), Le(1)] = 0.05):
        super().__init__(steps)
        self.threshold = threshold

    def width(self, channels: int) -> int:
        return 2 * channels

    def _encode(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        unit = statistics.unit(sequence)
        frames, channels = unit.shape
        place = np.minimum(np.arange(frames * self.steps) / self.steps, frames - 1)
        values = np.stack([np.interp(place, np.arange(frames), u) for u in unit.T], 1)
        sent = values[0].copy()
        spikes = np.zeros((len(values), 2 * channels), bool)
        for row, value in zip(spikes, values, strict=True):
            row[:channels] = value - sent >= self.threshold
            row[channels:] = sent - value >= self.threshold
            sent += self.threshold * (row[:channels].astype(float) - row[channels:])
        return spikes


class PopulationEncoder(Encoder):
    """Gaussian receptive fields (Bohte et al. 2002): `units` activities in [0, 1] per channel.

    Centres are evenly spaced over the range; `overlap` is the width of a field relative to their
    distance. With `spikes` activities are probabilities of a spike in each step, drawn in every
    epoch, else currents.
    """

    def __init__(
        self,
        steps: Steps = 1,
        units: Annotated[int, Interval(ge=2, le=10_000)] = 8,
        overlap: Annotated[float, Gt(0)] = 0.7,
        spikes: bool = False,
    ):
        super().__init__(steps)
        self.units = units
        self.overlap = overlap
        self.makes_spikes = spikes

    def width(self, channels: int) -> int:
        return self.units * channels

    def _encode(self, sequence: Array, statistics: Statistics, rng: np.random.Generator) -> Array:
        centres = np.linspace(0, 1, self.units)
        distance = (statistics.unit(sequence)[..., None] - centres) * (self.units - 1)
        activity = np.exp(-0.5 * (distance / self.overlap) ** 2).reshape(len(sequence), -1)
        held: Array = np.repeat(activity, self.steps, axis=0)
        return rng.random(held.shape) < held if self.makes_spikes else held


class Encoded:
    """Sequences that are encoded when they are read."""

    def __init__(self, sequences: Sequences, encoder: Encoder, statistics: Statistics):
        self.labels = sequences.labels
        self.lengths: Array = sequences.lengths * encoder.steps
        self._sequences = sequences
        self._encoder = encoder
        self._statistics = statistics

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """See `Sequences`."""
        found = self._sequences.read(positions, key)
        return [
            self._encoder(sequence, self._statistics, np.random.default_rng([*key, int(i)]))
            for i, sequence in zip(positions, found, strict=True)
        ]
