"""Event-based XOR (Lechner and Hasani 2020, arXiv 2006.04418): the parity of a string of bits.

A string of 2 to `longest` random bits has the class of its parity. As events, each run of equal
bits is one step of two features: the bit, and the length of the run divided by `longest` + 1, which
is also the time elapsed since the step before (`InputSpec.elapsed`). As a dense sequence, each bit
is a step of one feature. With an encoder these features become the currents or spikes of channels,
and models see no elapsed times. Samples are pure functions of (split_seed, split, number). There
are few short strings, so that some of them lie in several splits, as in the published task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Gt, Interval

from neuro.config.types import Count
from neuro.data.base import SPLITS, InputCoding, Split
from neuro.data.ragged.encoders import Encoded, Encoder, Statistics
from neuro.data.ragged.source import RaggedSource, Sequences
from neuro.data.store import Array
from neuro.runtime.memory import check_memory


class EventXOR(RaggedSource):
    """One task, `xor`. Keys are explained in `conf/data/event_xor.yaml`."""

    tasks = ("xor",)

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        event_based: bool = True,
        longest: Annotated[int, Interval(ge=2, le=10_000)] = 31,
        dt_ms: Annotated[float, Gt(0)] | None = None,
        train: Count = 100_000,
        val: Count = 10_000,
        test: Count = 10_000,
        batch_size: Count = 256,
        bucket: Count = 4,
        split_seed: Annotated[int, Interval(ge=0)] = 0,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        super().__init__(
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        self.encoder = encoder
        self.event_based = event_based
        self.longest = longest
        self.step_ms = dt_ms
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}

    @property
    def dt_ms(self) -> float | None:
        return self.step_ms

    @property
    def input_shape(self) -> tuple[int, ...]:
        features = 2 if self.event_based else 1
        return (features if self.encoder is None else self.encoder.width(features),)

    @property
    def coding(self) -> InputCoding:
        return "spikes" if self.encoder is not None and self.encoder.makes_spikes else "real"

    @property
    def elapsed(self) -> int | None:
        return 1 if self.event_based and self.encoder is None else None

    def classes(self, task: str) -> int:
        return 2

    def _open(self) -> dict[str, dict[Split, Sequences]]:
        largest, count = max(self.sizes.items(), key=lambda item: item[1])
        check_memory(
            count * self.longest * 8,
            f"data.{largest}: got {count} strings of up to {self.longest} bits",
            "Give fewer samples or shorter strings (longest).",
        )
        strings = {
            split: _Strings(
                self.sizes[split],
                self.longest,
                np.random.default_rng([self.split_seed, number]),
                self.event_based,
            )
            for number, split in enumerate(SPLITS)
        }
        if self.encoder is None:
            return {"xor": {**strings}}
        train = strings["train"]
        statistics = Statistics.of(train.read(np.arange(len(train.labels)), ()))
        # the range of the task: the longest runs are too rare to be measured
        low, high = np.array([[0, 1], [1, self.longest]]) / [1, self.longest + 1]
        low, high = low[: len(statistics.low)], high[: len(statistics.high)]
        statistics = statistics._replace(low=low, high=high)
        return {"xor": {k: Encoded(v, self.encoder, statistics) for k, v in strings.items()}}


class _Strings:
    """Random strings of bits, read as runs or bit by bit."""

    def __init__(self, count: int, longest: int, rng: np.random.Generator, runs: bool):
        bits = rng.integers(2, size=(count, longest), dtype=np.uint8)
        sizes = rng.integers(2, longest, size=count, endpoint=True)
        inside = np.arange(longest) < sizes[:, None]
        self.labels: Array = ((bits & inside).sum(1) % 2).astype(np.int64)
        if not runs:
            self.lengths: Array = sizes.astype(np.int64)
            self._features = bits[..., None].astype(np.float32)
            return
        # a run ends where the next bit differs, or with its string
        ends = np.ones_like(bits, bool)
        ends[:, :-1] = bits[:, 1:] != bits[:, :-1]
        ends[np.arange(count), sizes - 1] = True
        ends &= inside
        self.lengths = ends.sum(1)
        row, place = ends.nonzero()
        number = np.cumsum(ends, 1)[row, place] - 1
        before = np.where(number > 0, np.roll(place, 1), -1)
        self._features = np.zeros((count, int(self.lengths.max()), 2), np.float32)
        self._features[row, number, 0] = bits[row, place]
        self._features[row, number, 1] = (place - before) / (longest + 1)

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        return [self._features[i, : self.lengths[i]] for i in positions]
