"""The contract of a data source: named tasks, what each looks like, and batches in a known order.

A source owns its time step: the same model meets tasks with different ones, so `dt_ms` travels
with every batch. The order of an epoch is a pure function of (seed, epoch), which is all that a
resumed run needs to find its place again; a loader that depends on losses has a state besides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

from torch import Tensor

from neuro.data.uses import TargetKind
from neuro.errors import ConfigError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Batch(NamedTuple):
    """One batch of sequences.

    `inputs` is `[B, T, ...]`, or `[B, 1, ...]` for frames that are held for `frames` steps: such a
    batch stays small in memory and on its way to the device, and `sequence()` spreads it without
    a copy (stride 0 in time, which kernels and convolutions recognise). Tokens are int64 `[B, T]`.
    Data without time have T = 1. `dt_ms` is the time step, None where steps have no unit.

    What a source or a family of models does not use is None:

    - `teacher [B, T, K]`: outputs of a teacher over the same sequences
    - `lengths [B]`: steps of each sequence, the rest being padding, of which per-step targets are
      -100; None: all have T
    - `task`: the task that all samples belong to
    - `ids [B]`: numbers of the samples, stable within their task and split
    - `weights [B]`: weights of the samples in the loss
    - `starts [B]`: whether a sequence begins a document; others continue the one that was in the
      same place of the batch before (`trainer.stateful.reset=document`)
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

        Sequences that end before `stop` have a length of 0 to `stop - start` in it.
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
        """The batch with each of its tensors changed, such as moved to a device."""
        return Batch._make(function(x) if isinstance(x, Tensor) else x for x in self)

    def rows(self, chosen: slice | Tensor | Sequence[int]) -> Batch:
        """Some of its samples."""
        return self.map(lambda tensor: tensor[chosen])


@dataclass(frozen=True)
class InputSpec:
    """Inputs of one time step: a float array of `shape`, or an integer (`dtype` int, shape ()).

    `vocabulary` is the number of symbols where inputs are symbols: integers 0 to vocabulary - 1,
    which a model embeds, or as floats one-hot vectors of that length.
    """

    shape: tuple[int, ...]
    dtype: Literal["float", "int"] = "float"
    vocabulary: int | None = None

    @property
    def is_symbolic(self) -> bool:
        """Whether inputs are symbols: integers, or one-hot vectors."""
        return self.vocabulary is not None


@dataclass(frozen=True)
class TargetSpec:
    """Targets of one sample, or of one time step for kinds that have a target per step.

    `shape` is that of one target: () for a class, (K,) for K values, (C, H, W) for an image.
    `classes` is the number of classes of all tasks together, so that class-incremental learning
    needs no new outputs; None where targets are values.
    """

    kind: TargetKind
    shape: tuple[int, ...] = ()
    classes: int | None = None


@dataclass(frozen=True)
class TaskSpec:
    """Properties of a task that a model, an objective and a hardware target depend on.

    `timings` holds every (steps, dt_ms) that a batch of this task may have; dt_ms is None where
    steps have no unit of time. `classes` are the labels that occur in this task. `teacher` is the
    width of the trajectories that training batches carry for distillation (None: they carry none).
    Whole training samples may lack their class if it is `partly_labelled`. With `documents`,
    batches say which sequences begin a document (`Batch.starts`).
    """

    task: str
    inputs: InputSpec
    targets: TargetSpec
    timings: tuple[tuple[int, float | None], ...]
    classes: tuple[int, ...] = ()
    teacher: int | None = None
    partly_labelled: bool = False
    documents: bool = False

    @property
    def frames(self) -> int:
        """Time steps of a sample; the most, where they differ."""
        return max(frames for frames, _ in self.timings)

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
        """Width of the readout: numbers of one target, or scores of all classes."""
        targets = self.targets
        return prod(targets.shape) if targets.classes is None else targets.classes


class Loader(ABC):
    """Batches of one task and split, for one process among `world_size`.

    Their order is a pure function of (seed, epoch). A loader that chooses samples by their losses
    sets `uses_losses`, and keeps what it has observed in its state.
    """

    samples: int  #: samples of an epoch, over all processes
    uses_losses: bool = False  #: whether `observe` is to be called after every update

    @abstractmethod
    def __len__(self) -> int:
        """Batches of an epoch, the same on every process."""

    @abstractmethod
    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on.

        A pure function of (seed, epoch), and of the state where there is one.
        """

    def observe(self, ids: Tensor, losses: Tensor, task: str | None) -> None:
        """Take in the losses `[B]` of samples of a task, after an update on them.

        `ids [B]` are those of the batch; both are on the CPU. Every process observes the samples
        of all processes, in the same order.
        """

    def state_dict(self) -> dict[str, Any]:
        """What has been observed, as tensors and plain values, for checkpoints."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back the state of another loader like this one."""


class WrappedLoader(Loader):
    """A loader that changes the batches of another, and passes on everything else."""

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

    @property
    @abstractmethod
    def tasks(self) -> tuple[str, ...]:
        """The tasks that a curriculum can name."""

    @abstractmethod
    def prepare(self) -> None:
        """Make, convert or open what is needed; DataError says which file is wrong and why."""

    def measured(self) -> dict[str, Any]:
        """Keys of the source's config that it settled by what its training split holds.

        A run keeps them in its config.yaml, so that other data are later read in the same way.
        """
        return {}

    def teach(
        self, task: str, split: Split, key: str, run: Callable[[Batch], Tensor], mixtures: int = 0
    ) -> None:
        """Let the batches of a split carry what a teacher makes of their samples.

        `run` gives its outputs `[B, T, K]` for a batch as it is without transforms. They are
        computed once and kept in a file; `key` identifies the teacher. The split grows by
        `mixtures` samples without a label for each of its own. ConfigError where a source cannot
        do this, or transforms do not go with it.
        """
        raise ConfigError(f"teacher: {type(self).__name__} keeps no trajectories of a teacher.")

    @abstractmethod
    def spec(self, task: str) -> TaskSpec:
        """What the task looks like. ConfigError for a task that does not exist."""

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
