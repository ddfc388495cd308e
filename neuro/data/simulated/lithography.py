"""Masks and their simulated aerial images, by family of patterns.

The file of a data set is made once and named after all that shapes it. It holds the families one
after the other, as many samples of each; tasks select from it: one for each family, `seen` and
`unseen` (the family that `held_out` names), and `all`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from annotated_types import Ge, Gt, MinLen

from neuro.config.types import Count, Seed
from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.loading import InMemory
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows
from neuro.data.simulated.imaging import ImagedMasks
from neuro.data.simulated.optics import Optics
from neuro.data.simulated.patterns import FAMILIES, Rules, draw
from neuro.runtime.memory import check_memory

Family = Literal["vertical_lines", "horizontal_lines", "contacts", "l_shapes", "rectangles"]

ALL_FAMILIES: tuple[Family, ...] = get_args(Family)

#: part of every digest; to be raised when equal settings give other masks or images than before
RECIPE = 1

_BYTES = 8  # of a pixel: its mask and its image


class Lithography(ImagedMasks):
    """Random masks of 0 and 1, and their aerial images.

    Keys are explained in `conf/data/lithography.yaml`.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        size: Annotated[int, Ge(8)] = 64,
        pixel_nm: Annotated[float, Gt(0)] = 25.0,
        kernels: Count | None = 24,
        families: Annotated[tuple[Family, ...], MinLen(1)] = ALL_FAMILIES,
        held_out: Family | None = "l_shapes",
        width_nm: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (125.0, 300.0),
        space_nm: Annotated[float, Gt(0)] = 125.0,
        noise: Annotated[float, Ge(0)] = 0.0,
        train: Count = 200,
        val: Count = 25,
        test: Count = 50,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 16,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
    ):
        super().__init__(
            optics=optics,
            size=size,
            pixel_nm=pixel_nm,
            kernels=kernels,
            split_seed=split_seed,
            root=root,
            in_memory=in_memory,
            batch_size=batch_size,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            transforms=transforms,
        )
        self.noise = noise
        self.families = tuple(dict.fromkeys(families))
        self.held_out = held_out
        self.rules = Rules(*(max(1, round(nm / pixel_nm)) for nm in (*width_nm, space_nm)))
        self.counts: dict[Split, int] = {"train": train, "val": val, "test": test}
        self._check(width_nm, space_nm)

    def _check(self, width_nm: tuple[float, float], space_nm: float) -> None:
        """ValueError for arguments that do not go together."""
        if width_nm[0] > width_nm[1]:
            raise ValueError(f"width_nm: got {list(width_nm)}; expected the smaller one first")
        if 2 * (self.rules.wide + self.rules.space) > self.size:
            raise ValueError(
                f"width_nm: two features of up to {width_nm[1]:g} nm with space_nm={space_nm:g} "
                f"beside each do not fit a tile of {self.size} x {self.pixel_nm:g} nm"
            )
        if self.held_out is not None and self.held_out not in self.families:
            raise ValueError(
                f"held_out: got {self.held_out!r}; expected one of families, "
                f"{', '.join(self.families)}, or null"
            )
        if self.held_out is not None and len(self.families) == 1:
            raise ValueError("held_out: got the only family; nothing is left to train on")

    @property
    def _chosen(self) -> dict[str, tuple[str, ...]]:
        """Families of each task."""
        seen = tuple(family for family in self.families if family != self.held_out)
        unseen = {} if self.held_out is None else {"unseen": (self.held_out,)}
        return {
            "seen": seen,
            **unseen,
            **{family: (family,) for family in self.families},
            "all": self.families,
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._chosen)

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        path = self.root / f"lithography-{digest(self._shaping())}.h5"
        splits = made(path, lambda: self._make(path), self._misfit)
        opened: dict[str, dict[Split, list[Part]]] = {}
        for task, families in self._chosen.items():
            opened[task] = {}
            for split in SPLITS:
                count = self.counts[split]
                rows = [self.families.index(f) * count + np.arange(count) for f in families]
                part = all_rows(splits[split])
                opened[task][split] = [part.select(np.sort(np.concatenate(rows)))]
        return opened

    def _shaping(self) -> Mapping[str, object]:
        return {
            "recipe": RECIPE,
            "optics": self.optics.plain(),
            "size": self.size,
            "pixel_nm": self.pixel_nm,
            "kernels": self.kernels,
            "families": self.families,
            "rules": self.rules,
            "noise": self.noise,
            "counts": self.counts,
            "split_seed": self.split_seed,
        }

    def _misfit(self, splits: Mapping[str, store.Split]) -> str:
        found = {name: split.shape[0] for name, split in splits.items()}
        expected = {name: n * len(self.families) for name, n in self.counts.items()}
        return "" if found == expected else f"holds {found} samples instead of {expected}."

    def _make(self, path: Path) -> None:
        largest, count = max(self.counts.items(), key=lambda item: item[1])
        check_memory(
            count * len(self.families) * self.size**2 * _BYTES,
            f"data.{largest}: got {count}, a number of masks of each family",
            "Give fewer, or smaller ones (data.size).",
        )
        contents: dict[str, Content] = {}
        for number, split in enumerate(SPLITS):
            content = self._imaged(np.stack(list(self._masks(number, self.counts[split]))))
            images = content.labels
            if split == "train" and self.noise and images is not None:
                rng = np.random.default_rng([self.split_seed, len(SPLITS)])
                noise = self.noise * rng.standard_normal(images.shape, np.float32)
                content = content._replace(labels=images + noise)
            contents[split] = content
        settings = json.dumps(self._shaping(), sort_keys=True)
        write(path, contents, generator=f"neuro lithography {settings}")

    def _masks(self, split: int, count: int) -> Iterator[store.Array]:
        """Masks of all families; those of a family do not depend on which others there are."""
        for family in self.families:
            kind = list(FAMILIES).index(family)
            for sample in range(count):
                rng = np.random.default_rng([self.split_seed, split, kind, sample])
                yield draw(family, self.size, self.rules, rng)
