"""Bars that move across the field of an event camera, in one of several directions.

A bar is bright or dark. A bright one gives an ON event in each pixel that its leading edge passes
and an OFF event in each that its trailing edge passes, a dark one the reverse. So the class, the
direction of movement, lies in time alone:

- every pixel has as many events of each polarity in every class: a readout of counts is at chance
- a bright bar and a dark one that moves the other way have the same pictures in the reverse order:
  a readout of single steps finds the orientation of the bar at best, half of the directions

Speed, width, latency of pixels and noise events are drawn for each sample; sequences differ in
length.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Interval

from neuro.config.types import Count
from neuro.data.ragged.event_store import MICROSECONDS, Binning, Sample
from neuro.data.ragged.events import Milliseconds
from neuro.data.ragged.made_events import MadeEvents

Positive = Annotated[float, Interval(ge=0.1, le=1e6)]
Range = tuple[Positive, Positive]


class MovingBars(MadeEvents):
    """Classes are directions, evenly spaced. Keys: `conf/data/moving_bars.yaml`."""

    name = "moving_bars"

    def __init__(
        self,
        *,
        directions: Annotated[int, Interval(ge=2, le=64)] = 16,
        side: Annotated[int, Interval(ge=4, le=1024)] = 16,
        speed_px_s: Range = (80.0, 160.0),
        width_px: Range = (2.0, 4.0),
        jitter_ms: Annotated[float, Interval(ge=0, le=1e6)] = 6.0,
        noise_hz: Annotated[float, Interval(ge=0, le=1e6)] = 4.0,
        dt_ms: Milliseconds = 5.0,
        duration_ms: Milliseconds | None = None,
        train: Count = 800,
        val: Count = 200,
        test: Count = 800,
        batch_size: Count = 32,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
        root: str | None = None,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        super().__init__(
            counts={"train": train, "val": val, "test": test},
            classes=directions,
            group=1,
            binning=Binning(dt_ms, duration_ms),
            root=root,
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        for key, (low, high) in (("speed_px_s", speed_px_s), ("width_px", width_px)):
            if low > high:
                raise ValueError(f"{key}: got {[low, high]}; give the lowest and the highest value")
        self.directions = directions
        self.side = side
        self.size = (side, side)
        self.speed_px_s = speed_px_s
        self.width_px = width_px
        self.jitter_ms = jitter_ms
        self.noise_hz = noise_hz

    def _shaping(self) -> dict[str, Any]:
        return {
            "directions": self.directions,
            "side": self.side,
            "speed_px_s": self.speed_px_s,
            "width_px": self.width_px,
            "jitter_ms": self.jitter_ms,
            "noise_hz": self.noise_hz,
        }

    def _largest(self) -> tuple[float, str]:
        way = np.sqrt(2) * self.side + self.width_px[1]
        noise = self.noise_hz * way / self.speed_px_s[0]
        keys = "data.side or data.noise_hz, or raise data.speed_px_s"
        return 2 * self.side**2 * (1 + noise), keys

    def _sample(self, label: int, rng: np.random.Generator) -> Sample:
        side = self.side
        speed = rng.uniform(*self.speed_px_s)
        width = rng.uniform(*self.width_px)
        leading = int(rng.integers(2))  # polarity at the leading edge: 1 for a bright bar
        # the same way in all directions: a circle around the field
        way = np.sqrt(2) * side + width
        duration_s = way / speed
        y, x = np.divmod(np.arange(side * side), side)
        angle = 2 * np.pi * label / self.directions
        centre = (side - 1) / 2
        # y points down, as rows do
        place = (x - centre) * np.cos(angle) - (y - centre) * np.sin(angle) + side / np.sqrt(2)
        count = rng.poisson(self.noise_hz * duration_s * 2 * side * side)
        pixels = rng.integers(0, side * side, count)
        times_s = np.concatenate(
            [
                place / speed + rng.normal(0, self.jitter_ms / 1000, len(place)),
                (place + width) / speed + rng.normal(0, self.jitter_ms / 1000, len(place)),
                rng.uniform(0, duration_s, count),
            ]
        )
        address = (
            np.concatenate([x, x, x[pixels]]),
            np.concatenate([y, y, y[pixels]]),
            np.concatenate(
                [np.full(len(x), leading), np.full(len(x), 1 - leading), rng.integers(0, 2, count)]
            ),
        )
        return Sample(np.clip(times_s, 0, duration_s) / (MICROSECONDS.ms / 1000), address, label)
