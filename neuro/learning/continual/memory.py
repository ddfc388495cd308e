"""A memory of training samples and the outputs that they had, for terms that rehearse them.

Which samples are kept and drawn depends on counts alone, so that it is the same on every process
and after a resume. Samples of different lengths and time steps can be kept together; those that are
drawn together have the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.runtime.distributed import divided, gathered

#: the tensors of a batch that are kept
_FIELDS = ("inputs", "targets", "lengths", "choices")


class Sample(NamedTuple):
    """One sample as a batch, and its pooled outputs `[1, ...]`."""

    batch: Batch
    outputs: Tensor


class Memory(nn.Module):
    """At most `capacity` samples, a uniform random choice of all that were offered; None: all.

    Reservoir sampling (Vitter 1985): sample number n replaces a random one with the probability
    capacity / n.
    """

    def __init__(self, capacity: int | None = None):
        super().__init__()
        self.capacity = capacity
        self.offered = 0
        self.drawn = 0
        self._samples: list[Sample] = []
        self.register_buffer("_place", torch.empty(0), persistent=False)  # on the module's device

    def __len__(self) -> int:
        return len(self._samples)

    def offer(self, batch: Batch, outputs: Tensor) -> None:
        """Offer the samples of a batch, with those of the other processes; a collective call."""
        if not divided():
            self.offer_all(batch, outputs)
            return
        device = outputs.device
        for share, values in gathered((_kept(batch).map(Tensor.cpu), outputs.cpu())):
            self.offer_all(share.map(lambda x: x.to(device)), values.to(device))

    def offer_all(self, batch: Batch, outputs: Tensor) -> None:
        """Offer the samples of a batch that every process has as a whole."""
        batch = _kept(batch)
        for row in range(len(batch.targets)):
            if (slot := self._slot()) is not None:
                one = slice(row, row + 1)
                sample = Sample(batch.rows(one).map(Tensor.clone), outputs[one].clone())
                self._samples[slot : slot + 1] = [sample]

    def draw(self, count: int) -> Sample:
        """At most `count` random samples, all different, as one batch with its outputs."""
        rng = np.random.default_rng([1, self.drawn])
        self.drawn += 1
        groups = list(self._alike().values())
        sizes = np.array([len(group) for group in groups])
        group = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
        chosen = rng.permutation(len(group))[:count]
        return _together([self._samples[group[i]] for i in chosen])

    def _slot(self) -> int | None:
        """The place of the next sample; None: it is not kept."""
        self.offered += 1
        if self.capacity is None or len(self._samples) < self.capacity:
            return len(self._samples)
        slot = int(np.random.default_rng([0, self.offered]).integers(self.offered))
        return slot if slot < self.capacity else None

    def _alike(self) -> dict[tuple[Any, ...], list[int]]:
        """Numbers of the samples that can be one batch, by what they have in common."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number, sample in enumerate(self._samples):
            batch = sample.batch
            key = (batch.frames, batch.dt_ms, batch.inputs.shape, batch.lengths is None)
            groups.setdefault(key, []).append(number)
        return groups

    def _apply(self, fn: Any, recurse: bool = True) -> Memory:
        super()._apply(fn, recurse)
        self._samples = [Sample(s.batch.map(fn), fn(s.outputs)) for s in self._samples]
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}counts"] = torch.tensor([self.offered, self.drawn])
        for number, places in enumerate(self._alike().values()):
            batch, outputs = _together([self._samples[i] for i in places])
            timing = [float("nan") if x is None else x for x in (batch.frames, batch.dt_ms)]
            fields = {name: getattr(batch, name) for name in _FIELDS}
            fields |= {"outputs": outputs, "places": torch.tensor(places)}
            fields["timing"] = torch.tensor(timing, dtype=torch.float64)
            destination |= {
                f"{prefix}{number}.{name}": x for name, x in fields.items() if x is not None
            }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        device = self._buffers["_place"].device  # type: ignore[union-attr]
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in state_dict.items():
            number, dot, name = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and dot:
                found.setdefault(number, {})[name] = value.to(device)
        self.offered, self.drawn = state_dict[f"{prefix}counts"].tolist()
        samples = dict(pair for group in found.values() for pair in _apart(group))
        self._samples = [samples[place] for place in sorted(samples)]


def _kept(batch: Batch) -> Batch:
    """A batch with the fields that are kept."""
    return Batch(
        batch.inputs,
        batch.targets,
        batch.dt_ms,
        batch.frames,
        lengths=batch.lengths,
        choices=batch.choices,
    )


def _together(samples: Sequence[Sample]) -> Sample:
    """Several samples as one batch."""
    batches = zip(*(sample.batch for sample in samples), strict=True)
    joined = Batch._make(torch.cat(x) if isinstance(x[0], Tensor) else x[0] for x in batches)
    return Sample(joined, torch.cat([sample.outputs for sample in samples]))


def _apart(group: dict[str, Tensor]) -> Iterator[tuple[int, Sample]]:
    """The samples of a group in a checkpoint, with their places in the memory."""
    frames, dt_ms = (None if x != x else x for x in group["timing"].tolist())
    batch = Batch(
        group["inputs"],
        group["targets"],
        dt_ms,
        None if frames is None else int(frames),
        lengths=group.get("lengths"),
        choices=group.get("choices"),
    )
    for row, place in enumerate(group["places"].tolist()):
        one = slice(row, row + 1)
        yield place, Sample(batch.rows(one).map(Tensor.clone), group["outputs"][one].clone())


def problem_of_capacity(capacity: int, classes: Sequence[int], key: str) -> str | None:
    """The problem of a memory that cannot hold a sample of each class."""
    if capacity >= len(classes):
        return None
    return (
        f"{key}: got {capacity}, fewer than the {len(classes)} classes of the data; give at least "
        "one sample for each."
    )
