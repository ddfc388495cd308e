"""Made tasks whose information lies in the times of spikes alone, at two time scales.

Two groups of channels, A and B, have the same number of spikes in every sample, whatever its class:
a readout that is blind to time is at chance. Information is

- slow: which group fires in the first half of a cue, and which in the second (`slow_ms` each);
  or whether dense and sparse spiking alternate as dense-sparse or sparse-dense
- fast: which group leads by `fast_ms` in short volleys of both; or whether they coincide

| task    | sequence                                                | class                        |
|---------|---------------------------------------------------------|------------------------------|
| context | slow cue, silence of `delay_ms`, volleys with a leader  | leader XOR order of the cue  |
| match   | volleys with a leader, silence of `delay_ms`, the same  | whether the leader is equal  |
| mixed   | volleys, coincident or not, dense and sparse in turns   | both features: four classes  |

The silence is drawn for each sample, so that sequences differ in length. Every channel has Poisson
noise of `noise_hz` in addition. A sample is a pure function of (split_seed, task, split, number).
Tasks with shorter silences (`curriculum_ms`) can be learned before those of `delay_ms`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Annotated, Literal, get_args

import numpy as np
from annotated_types import Ge, Interval, MinLen

from neuro.config.types import Count
from neuro.data.base import SPLITS, InputCoding, Split
from neuro.data.ragged.source import RaggedSource, Sequences
from neuro.data.store import Array
from neuro.runtime.memory import check_memory

Kind = Literal["context", "match", "mixed"]
Positive = Annotated[float, Interval(gt=0, le=1e6)]

KINDS: tuple[Kind, ...] = get_args(Kind)
CLASSES: dict[Kind, int] = {"context": 2, "match": 2, "mixed": 4}

CUE_SPIKES = 10  # of each channel in its half of a cue
VOLLEYS = 5  # of a fast pattern
VOLLEY_MS = 20.0  # from one volley to the next
DENSE, SPARSE = 8, 2  # volleys in each half of a period of the task `mixed`
PERIODS = 2


class Timescales(RaggedSource):
    """One task for each of `kinds`. Keys are explained in `conf/data/timescales.yaml`."""

    def __init__(
        self,
        *,
        kinds: Annotated[tuple[Kind, ...], MinLen(1)] = KINDS,
        channels: Count = 8,
        dt_ms: Positive = 2.0,
        fast_ms: Positive = 4.0,
        slow_ms: Positive = 100.0,
        delay_ms: tuple[Positive, Positive] = (200.0, 400.0),
        curriculum_ms: tuple[Annotated[int, Interval(ge=1, le=1_000_000)], ...] = (),
        jitter_ms: Annotated[float, Interval(ge=0, le=1e6)] = 0.5,
        noise_hz: Annotated[float, Interval(ge=0, le=1e6)] = 2.0,
        train: Count = 1000,
        val: Count = 200,
        test: Count = 500,
        batch_size: Count = 32,
        bucket: Count = 4,
        split_seed: Annotated[int, Ge(0)] = 0,
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
        if delay_ms[0] > delay_ms[1]:
            raise ValueError(f"delay_ms: got {list(delay_ms)}; give the least and the greatest")
        if fast_ms < dt_ms:
            raise ValueError(
                f"fast_ms: got {fast_ms:g}, less than a step (dt_ms={dt_ms:g}), in which order "
                "cannot be seen; give more"
            )
        if 2 * fast_ms > min(VOLLEY_MS, slow_ms / DENSE):
            raise ValueError(
                f"fast_ms: got {fast_ms:g}; at most half the time between volleys, "
                f"{min(VOLLEY_MS, slow_ms / DENSE) / 2:g} (slow_ms / {2 * DENSE}, at most "
                f"{VOLLEY_MS / 2:g})"
            )
        delays: dict[str, tuple[Kind, tuple[float, float]]] = {
            f"{kind}_{longest}": (kind, (longest / 2, float(longest)))
            for kind in kinds
            if kind != "mixed"
            for longest in sorted(set(curriculum_ms))
        }
        if curriculum_ms and not delays:
            raise ValueError(
                f"curriculum_ms: got {list(curriculum_ms)}, but none of the kinds "
                f"({', '.join(kinds)}) has a silence; give none, or add context or match"
            )
        self._delays = delays | {kind: (kind, delay_ms) for kind in kinds}
        self.channels = channels
        self.step_ms = dt_ms
        self.fast_ms = fast_ms
        self.slow_ms = slow_ms
        self.jitter_ms = jitter_ms
        self.noise_hz = noise_hz
        self.sizes: dict[Split, int] = {"train": train, "val": val, "test": test}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._delays)

    @property
    def dt_ms(self) -> float:
        return self.step_ms

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (2 * self.channels,)

    @property
    def coding(self) -> InputCoding:
        return "spikes"

    def classes(self, task: str) -> int:
        return CLASSES[self._delays[task][0]]

    def _open(self) -> dict[str, dict[Split, Sequences]]:
        silence = max(delay for _, (_, delay) in self._delays.values())
        longest = max(
            max(2 * self.slow_ms, VOLLEYS * VOLLEY_MS) + silence + VOLLEYS * VOLLEY_MS,
            2 * PERIODS * self.slow_ms,
        )
        steps = math.ceil(longest / self.step_ms)
        largest, count = max(self.sizes.items(), key=lambda item: item[1])
        check_memory(
            count * len(self._delays) * steps * 2 * self.channels,
            f"data.{largest}: got {count} samples of each task, of up to {steps} steps in "
            f"{2 * self.channels} channels",
            "Give fewer samples or channels, longer steps (dt_ms), or shorter delays.",
        )
        return {
            task: self._made(task, kind, *delay) for task, (kind, delay) in self._delays.items()
        }

    def _made(
        self, task: str, kind: Kind, shortest: float, longest: float
    ) -> dict[Split, Sequences]:
        key = [self.split_seed, KINDS.index(kind)]
        return {
            split: _Made(
                partial(self._sample, kind, (shortest, longest)),
                self.sizes[split],
                CLASSES[kind],
                (*key, number) if task == kind else (*key, number, int(longest)),
            )
            for number, split in enumerate(SPLITS)
        }

    def _sample(
        self, kind: Kind, silence: tuple[float, float], label: int, rng: np.random.Generator
    ) -> Array:
        """Spikes `[T, C]` of a sample, 0 or 1."""
        delay = rng.uniform(*silence)
        first = int(rng.integers(2))
        if kind == "context":
            cue = self._cue(first, rng)
            start = 2 * self.slow_ms + delay
            spikes = [*cue, *self._volleys(start, first ^ label, rng)]
            end = start + VOLLEYS * VOLLEY_MS
        elif kind == "match":
            start = VOLLEYS * VOLLEY_MS + delay
            second = first if label else 1 - first
            spikes = [*self._volleys(0.0, first, rng), *self._volleys(start, second, rng)]
            end = start + VOLLEYS * VOLLEY_MS
        else:
            spikes = self._mixed(label & 1, label >> 1, rng)
            end = 2 * PERIODS * self.slow_ms
        return self._binned(spikes, end, rng)

    def _cue(self, first: int, rng: np.random.Generator) -> list[tuple[int, Array]]:
        """Spikes of a cue: (group, times of each channel `[C, spikes]`)."""
        shape = self.channels, CUE_SPIKES
        halves = ((first, 0.0), (1 - first, self.slow_ms))
        return [(group, start + rng.uniform(0, self.slow_ms, shape)) for group, start in halves]

    def _volleys(
        self, start: float, leader: int, rng: np.random.Generator
    ) -> list[tuple[int, Array]]:
        """Volleys of both groups, of which one leads."""
        slack = VOLLEY_MS - 2 * self.fast_ms
        times = start + VOLLEY_MS * np.arange(VOLLEYS) + rng.uniform(0, slack, VOLLEYS)
        shape = self.channels, VOLLEYS
        return [
            (leader, np.broadcast_to(times, shape)),
            (1 - leader, np.broadcast_to(times + self.fast_ms, shape)),
        ]

    def _mixed(
        self, coincident: int, dense_first: int, rng: np.random.Generator
    ) -> list[tuple[int, Array]]:
        """Volleys in dense and sparse halves; either group may lead."""
        found = []
        for half in range(2 * PERIODS):
            count = DENSE if half % 2 != dense_first else SPARSE
            places = np.sort(rng.choice(DENSE, count, replace=False))
            times = self.slow_ms * (half + places / DENSE)
            leads = rng.integers(0, 2, count)
            for group in (0, 1):
                late = 0.0 if coincident else self.fast_ms * (leads != group)
                found.append((group, np.broadcast_to(times + late, (self.channels, count))))
        return found

    def _binned(
        self, spikes: Sequence[tuple[int, Array]], end: float, rng: np.random.Generator
    ) -> Array:
        """Spikes per step, with jitter and noise; `end` is the length in ms."""
        steps = int(np.ceil(end / self.step_ms))
        chance = self.noise_hz * self.step_ms / 1000
        binned: Array = rng.random((steps, 2 * self.channels)) < chance
        for group, times in spikes:
            shifted = times + rng.normal(0, self.jitter_ms, times.shape)
            rows = np.clip((shifted / self.step_ms).astype(int), 0, steps - 1)
            columns = group * self.channels + np.arange(self.channels)[:, None]
            binned[rows, np.broadcast_to(columns, rows.shape)] = True
        return binned


class _Made:
    """Samples that are made once, when they are first asked for, and kept in memory."""

    def __init__(
        self,
        sample: Callable[[int, np.random.Generator], Array],
        count: int,
        classes: int,
        key: Sequence[int],
    ):
        # the same number of samples of each class, within one
        self.labels = np.random.default_rng(key).permutation(np.arange(count) % classes)
        self._sample = sample
        self._key = key

    @cached_property
    def _samples(self) -> list[Array]:
        return [
            self._sample(int(label), np.random.default_rng([*self._key, number]))
            for number, label in enumerate(self.labels)
        ]

    @cached_property
    def lengths(self) -> Array:
        """Steps of each sequence."""
        return np.array([len(s) for s in self._samples], np.int64)

    def read(self, positions: Array, key: Sequence[int]) -> list[Array]:
        """See `Sequences`."""
        return [self._samples[i] for i in positions]
