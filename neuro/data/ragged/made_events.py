"""Base of sources whose event files are made from a seed, once, and read like those of a user."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from neuro.data.base import SPLITS, Split
from neuro.data.made import digest
from neuro.data.ragged.event_file import EventFile, write_events
from neuro.data.ragged.event_store import Binning, Recording, Sample
from neuro.data.ragged.events import BinnedSource
from neuro.errors import ConfigError
from neuro.io.files import disk_of
from neuro.runtime.memory import check_memory, described_bytes
from neuro.runtime.progress import progress_bar

EVENT_BYTES = 128  #: of memory while a sample is made
STORED_BYTES = 20  #: of disk, in the event file and binned


class MadeEvents(BinnedSource):
    """Files `<root>/<name>-<digest>-<split>.h5`, with equally many samples of each class.

    Each sample is a pure function of (split_seed, split, number) and the settings.
    """

    name: ClassVar[str]  #: of the files
    size: tuple[int, int] | None = None  #: of a sensor of pixels; None: numbered units

    def __init__(
        self,
        *,
        counts: Mapping[Split, int],
        classes: int,
        group: int,
        binning: Binning,
        root: str | None,
        batch_size: int,
        bucket: int,
        limit_train: int | None,
        limit_val: int | None,
        limit_test: int | None,
        split_seed: int,
    ):
        super().__init__(
            binning=binning,
            outputs=classes,
            root=root,
            batch_size=batch_size,
            bucket=bucket,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
        )
        self.counts = dict(counts)
        self.group = group
        self._made_classes = classes

    @abstractmethod
    def _shaping(self) -> dict[str, Any]:
        """What a sample depends on besides seed, split and number."""

    @abstractmethod
    def _largest(self) -> tuple[float, str]:
        """Expected events of the largest sample, and the keys that decide it."""

    @abstractmethod
    def _sample(self, label: int, rng: np.random.Generator) -> Sample:
        """A sample of a class, with events in any order."""

    def _recordings(self) -> Mapping[Split, Recording]:
        events, keys = self._largest()
        check_memory(
            int(EVENT_BYTES * events), f"data: samples of {events:.3g} events", f"Reduce {keys}."
        )
        found: dict[Split, Recording] = {}
        for split, count in self.counts.items():
            shaping = {**self._shaping(), "count": count, "seed": self.split_seed}
            path = self.root / f"{self.name}-{digest(shaping)}-{split}.h5"
            if not path.is_file():
                self._check_disk(split, int(STORED_BYTES * events * count))
                write_events(path, self._samples(split), count, self.size)
            found[split] = EventFile(path, group=self.group)
        return found

    def _check_disk(self, split: Split, needed: int) -> None:
        free = shutil.disk_usage(disk_of(self.root)).free
        if needed > free:
            raise ConfigError(
                f"data.{split}: got {self.counts[split]} samples, for which "
                f"{described_bytes(needed)} are needed in {self.root}; {described_bytes(free)} "
                "are free. Give fewer, or another data.root."
            )

    def _samples(self, split: Split) -> Iterator[Sample]:
        count = self.counts[split]
        key = self.split_seed, SPLITS.index(split)
        labels = np.random.default_rng(key).permutation(np.arange(count) % self._made_classes)
        with progress_bar(f"Making {self.name}, {split}", "samples") as progress:
            for i, label in enumerate(labels):
                times, address, _ = self._sample(int(label), np.random.default_rng([*key, i]))
                order = np.argsort(times, kind="stable")
                yield Sample(times[order], tuple(part[order] for part in address), int(label))
                progress(i + 1, count)
