"""The contract of a data source: named tasks, their specifications, and batches in a fixed order.

The time step `dt_ms` is part of every batch, because one model may learn tasks with different time
steps. The order of an epoch is a pure function of (seed, epoch), so that a resumed run needs only
its position; a loader that depends on losses has a state in addition.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuro.data.uses import TargetKind
from neuro.errors import ConfigError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """One batch of sequences.

    `inputs` is `[B, T, ...]`, or `[B, 1, ...]` for frames that are held for `frames` steps: such a
    batch is small in memory and in transfers to the device, and `sequence()` expands it without a
    copy (stride 0 in time, which kernels and convolutions recognise). Tokens are int64 `[B, T]`.
    Data without time have T = 1. `dt_ms` is the time step, None if steps have no unit of time.

    Optional fields, None if a source or a family of models does not use them:

    - `teacher [B, T, K]`: outputs of a teacher over the same sequences
    - `lengths [B]`: steps of each sequence, the rest being padding, of which per-step targets are
      -100; None: all have T
    - `task`: the task that all samples belong to
    - `ids [B]`: numbers of the samples, stable within their task and split
    - `weights [B]`: weights of the samples in the loss
    - `starts [B]`: whether a sequence begins a document; others continue the sequence at the same
      position of the previous batch (`trainer.stateful.reset=document`)
    - `choices [B, K]`: the outputs among which a sample is decided; None: all
    """

    inputs: Tensor
    targets: Tensor
    dt_ms: float | None
    frames: int | None = None
    teacher: Tensor | None = None
    lengths: Tensor | None = None
    task: str | None = None
    ids: Tensor | None = None
    weights: Tensor | None = None
    starts: Tensor | None = None
    choices: Tensor | None = None

    def sequence(self) -> Tensor:
        """The inputs over all time steps, `[B, T, ...]`."""
        if self.frames is None:
            return self.inputs
        return self.inputs.expand(-1, self.frames, *self.inputs.shape[2:])

    @property
    def steps(self) -> int:
        """Time steps of the sequences."""
        return self.inputs.shape[1] if self.frames is None else self.frames

    def part(self, start: int, stop: int, *, per_step: bool) -> Batch:
        """The steps from `start` to before `stop`; `per_step` says that targets are `[B, T, ...]`.

        Sequences that end before `stop` get a length of 0 to `stop - start`.
        """
        targets = self.targets[:, start:stop] if per_step else self.targets
        teacher = None if self.teacher is None else self.teacher[:, start:stop]
        lengths = None if self.lengths is None else (self.lengths - start).clamp(0, stop - start)
        starts = self.starts if start == 0 else None
        cut = self._replace(targets=targets, teacher=teacher, lengths=lengths, starts=starts)
        if self.frames is not None:
            return cut._replace(frames=stop - start)
        return cut._replace(inputs=self.inputs[:, start:stop])

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to each tensor of the batch, for instance to move it to a device."""
        return Batch._make(function(x) if isinstance(x, Tensor) else x for x in self)

    def rows(self, chosen: slice | Tensor | np.ndarray[Any, Any] | Sequence[int]) -> Batch:
        """The batch with some of its samples."""
        return self.map(lambda tensor: tensor[chosen])

    def joined(self, other: Batch) -> Batch:
        """The samples of both batches, which have the same fields, time step and shapes."""
        return Batch._make(
            torch.cat([x, y]) if isinstance(x, Tensor) and isinstance(y, Tensor) else x
            for x, y in zip(self, other, strict=True)
        )


#: time steps, and shape of a step, of the samples of a batch
Layout = tuple[int, float | None, tuple[int, ...]]


def layout_of(batch: Batch) -> Layout:
    """What batches of one loader have in common that can be joined."""
    return batch.steps, batch.dt_ms, tuple(batch.inputs.shape[2:])


def own_share(batch: Batch, rank: int, world_size: int, *, repeat: bool) -> Batch:
    """This process's share of a batch.

    `repeat`: samples of a batch that is too small to divide are repeated, else some have none.
    """
    if world_size == 1:
        return batch
    order = np.arange(len(batch.targets))
    if repeat and len(order) < world_size:
        order = np.resize(order, world_size)
    return batch.rows(np.array_split(order, world_size)[rank])


#: values of float inputs: real numbers, spikes (0 or 1), or numbers of spikes
InputCoding = Literal["real", "spikes", "counts"]


@dataclass(frozen=True)
class InputSpec:
    """Inputs of one time step: a float array of `shape`, or an integer (`dtype` int, shape ()).

    `coding` says what values float inputs have, which a chip represents differently.
    `vocabulary` is the number of symbols if inputs are symbols: integers 0 to vocabulary - 1, which
    a model embeds, or one-hot vectors of floats. `document_end` is the symbol that ends a document.
    `elapsed` is the feature (of `shape` (K,)) that holds the time since the step before, for models
    of unequal steps; None: steps are equally long.
    """

    shape: tuple[int, ...]
    dtype: Literal["float", "int"] = "float"
    vocabulary: int | None = None
    document_end: int | None = None
    elapsed: int | None = None
    coding: InputCoding = "real"

    @property
    def is_symbolic(self) -> bool:
        """Whether inputs are symbols: integers, or one-hot vectors."""
        return self.vocabulary is not None


@dataclass(frozen=True)
class TargetSpec:
    """Targets of one sample, or of one time step for kinds that have a target per step.

    `shape` is that of one target: () for a class, (K,) for K values, (C, H, W) for an image.
    `classes` is the number of classes of all tasks together, so that class-incremental learning
    needs no new outputs; None for values. `symbol_bytes` are the UTF-8 bytes of each class if these
    are symbols of a text, for bits per byte.
    """

    kind: TargetKind
    shape: tuple[int, ...] = ()
    classes: int | None = None
    symbol_bytes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TaskSpec:
    """Properties of a task that a model, an objective and a hardware target depend on.

    - `timings`: all (steps, dt_ms) of batches; dt_ms is None if steps have no unit of time
    - `classes`: labels of this task
    - `teacher`: width of a teacher's trajectories in training batches; None: there are none
    - `partly_labelled`: training samples may have no class
    - `padded`: sequences differ in length, `frames` being the longest (`Batch.lengths`)
    - `documents`: batches mark which sequences begin a document (`Batch.starts`)
    """

    task: str
    inputs: InputSpec
    targets: TargetSpec
    timings: tuple[tuple[int, float | None], ...]
    classes: tuple[int, ...] = ()
    teacher: int | None = None
    partly_labelled: bool = False
    documents: bool = False
    padded: bool = False

    @property
    def frames(self) -> int:
        """Time steps of a sample; the largest number if they differ."""
        return max(frames for frames, _ in self.timings)

    @property
    def tokens(self) -> int | None:
        """Tokens of a sample; None if inputs are not tokens."""
        return self.frames if self.inputs.dtype == "int" else None

    @property
    def has_time_step(self) -> bool:
        """Whether steps have a unit of time in all timings."""
        return all(dt_ms is not None for _, dt_ms in self.timings)

    @property
    def described_timings(self) -> str:
        """The timings in words, such as "40 x 1 ms or 20 x 20 ms"."""
        return " or ".join(
            f"{frames} steps" if dt_ms is None else f"{frames} x {dt_ms:g} ms"
            for frames, dt_ms in self.timings
        )

    @property
    def outputs(self) -> int:
        """Width of the readout: number of values of a target, or of all classes."""
        targets = self.targets
        return prod(targets.shape) if targets.classes is None else targets.classes


class Loader(ABC):
    """Batches of one task and split, for one process among `world_size`.

    Their order is a pure function of (seed, epoch). A loader that selects samples by their losses
    sets `uses_losses`, and keeps observed losses in its state.
    """

    samples: int  #: samples of an epoch, over all processes
    uses_losses: bool = False  #: whether `observe` is to be called after every update

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch, the same on every process."""

    @abstractmethod
    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on.

        A pure function of (seed, epoch), and of the state if the loader has one.
        """

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        """Receive the losses `[B]` of samples of a task after an update with them.

        `ids [B]` are those of the batch; both are on the CPU. Every process observes the samples
        of all processes, in the same order.
        """

    def state_dict(self) -> dict[str, Any]:
        """State from observed losses for checkpoints: tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an equal loader."""


class WrappedLoader(Loader):
    """Base of loaders that change the batches of another loader."""

    def __init__(self, loader: Loader):
        self.loader = loader
        self.samples = loader.samples
        self.uses_losses = loader.uses_losses

    def __len__(self) -> int:
        return len(self.loader)

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        self.loader.observe(ids, losses, task)

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loader.load_state_dict(state)


class DataSource(ABC):
    """Named tasks with train, val and test splits."""

    batch_size: int  #: samples of one update on all devices together, before accumulation
    batch_key: str = "batch_size"  #: the config key of `batch_size`, for messages

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """The tasks that a curriculum can name."""

    @abstractmethod
    def prepare(self) -> None:
        """Generate, convert or open files. DataError for a file that cannot be used."""

    def measured(self) -> dict[str, Any]:
        """Values of config keys that were measured on the training split.

        A run records them in its config.yaml, so that it can read other data in the same way.
        """
        return {}

    def teach(
        self, task: str, split: Split, key: str, run: Callable[[Batch], Tensor], mixtures: int = 0
    ) -> None:
        """Add a teacher's trajectories to the batches of a split.

        `run` returns its outputs `[B, T, K]` for a batch without transforms. They are computed once
        and stored in a file; `key` identifies the teacher. `mixtures` samples without a label are
        added to the split per sample. ConfigError if the source cannot do this, or transforms do
        not allow it.
        """
        raise ConfigError(f"teacher: {type(self).__name__} keeps no trajectories of a teacher.")

    @abstractmethod
    def spec(self, task: str) -> TaskSpec:
        """The specification of a task. ConfigError for an unknown task."""

    @abstractmethod
    def loader(
        self,
        task: str,
        split: Split,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> Loader:
        """Batches of `batch_size / world_size` samples for this rank.

        Training (`shuffle=True`) drops nothing: the last batch is smaller. Every rank gets the
        same number of batches and disjoint samples.
        """
