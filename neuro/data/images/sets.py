"""Sets of labelled still images, from which temporal tasks are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from neuro.data import store
from neuro.data.parts import stratified_order


class Images(NamedTuple):
    """Grey images `[N, H, W]` of values 0 to `levels` (uint8), with their labels `[N]`."""

    pixels: store.Array
    labels: store.Array
    levels: int

    def take(self, chosen: store.Array) -> Images:
        """Some of the images: positions or a mask."""
        return Images(self.pixels[chosen], self.labels[chosen], self.levels)


class ImageSet(ABC):
    """A source of labelled images."""

    supplied: tuple[str, ...] = ()

    name: ClassVar[str]  #: the names of files made of the set begin with it
    classes: ClassVar[tuple[int, ...]] = tuple(range(10))

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Any]:
        """Plain values that differ for other images or another test part."""

    @abstractmethod
    def load(self, rng: np.random.Generator) -> tuple[Images, Images]:
        """The images for training and those for testing, all classes.

        `rng` divides a set that has no test part. DataError for files that are missing or damaged.
        """


def held_out(labels: store.Array, fraction: float, rng: np.random.Generator) -> store.Array:
    """A mask `[N]` of a stratified random fraction of the samples, at least one of them."""
    mask = np.zeros(len(labels), bool)
    mask[stratified_order(labels, rng)[: max(1, round(fraction * len(labels)))]] = True
    return mask
