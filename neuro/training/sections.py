"""Boundaries of the parts of training, which a profiler measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from neuro.data.base import Batch, Loader, WrappedLoader

Stage = Literal["train", "validation"]

_NOTHING: AbstractContextManager[Any] = nullcontext()


class Sections:
    """Measures nothing; a profiler replaces it by its own sections (`TrainerView.profile`)."""

    def section(self, name: str) -> AbstractContextManager[Any]:
        """Context around a part of the current batch's work."""
        return _NOTHING

    def batches(self, stage: Stage, batches: Iterable[Batch]) -> Iterable[Batch]:
        """Iterate over the batches of an epoch or a validation."""
        return batches


class Observed(WrappedLoader):
    """A loader whose batches of an evaluation are measured.

    `after_batch` is called with the number of batches so far.
    """

    def __init__(self, loader: Loader, sections: Sections, after_batch: Callable[[int], None]):
        super().__init__(loader)
        self.sections = sections
        self.after_batch = after_batch

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        batches = self.sections.batches("validation", self.loader.batches(epoch, start))
        for done, batch in enumerate(batches, start + 1):
            yield batch
            self.after_batch(done)
