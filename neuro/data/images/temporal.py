"""Temporal tasks from still images: sequences with a frame rate, a duration and a coding.

    image [H, W]  ─resize─ motion and jitter─▶  frames [T, 1, H, W]  ─coding─▶  values or spikes

- `analog`: every frame shows the image. A still image is stored once and held (`Batch.frames`).
- `poisson`: each pixel spikes in each frame with probability value * max_rate_hz * dt.
- `latency`: each pixel that is not black spikes once; brighter pixels spike earlier.

Sequences are made once and stored in an HDF5 file of `root` for each task and timing, whose name
contains a digest of all settings that its content depends on. Images are divided into train, val
and test before tasks select their classes, so that no image is used for training in one task and
for testing in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from neuro.config.types import Count, Fraction, Seed
from neuro.data import store
from neuro.data.augmentation import Transforms
from neuro.data.base import SPLITS, Split
from neuro.data.images.frames import latency_spikes, moved, resized, to_uint8
from neuro.data.images.sets import Images, ImageSet, held_out
from neuro.data.images.tasks import TASKS, TIMINGS, TaskDefinition, Timing
from neuro.data.loading import InMemory
from neuro.data.made import Content, digest, made, write
from neuro.data.parts import Part, all_rows, stratified_order
from neuro.data.sequences.source import SequenceSource
from neuro.errors import DataError, nearest
from neuro.runtime.memory import check_memory

#: part of every digest; to be raised when equal settings give other sequences than before
RECIPE = 1
#: number of images that are converted together, which limits memory
IMAGES_AT_ONCE = 64

Coding = Literal["analog", "poisson", "latency"]


class TemporalImages(SequenceSource):
    """Tasks from a set of labelled images, as sequences `[T, 1, H, W]` of values in [0, 1].

    The keys are explained in `conf/data/images/base.yaml`.
    """

    def __init__(
        self,
        *,
        images: ImageSet,
        timings: dict[str, Timing] = TIMINGS,
        tasks: dict[str, TaskDefinition | None] = TASKS,
        coding: Coding = "analog",
        max_rate_hz: Annotated[float, Gt(0)] = 50.0,
        jitter_px: Annotated[int, Ge(0)] = 0,
        motion_px_per_s: Annotated[float, Ge(0)] = 0.0,
        image_size: Count | None = None,
        val_fraction: Fraction = 0.2,
        split_seed: Seed = 0,
        root: str | None = None,
        in_memory: InMemory = "auto",
        batch_size: Count = 64,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
        transforms: Transforms | None = None,
    ):
        super().__init__(
            batch_size=batch_size,
            in_memory=in_memory,
            limit_train=limit_train,
            limit_val=limit_val,
            limit_test=limit_test,
            split_seed=split_seed,
            root=root,
            transforms=transforms,
        )
        self.images = images
        self.timings = dict(timings)
        self.definitions = {name: task for name, task in tasks.items() if task is not None}
        self.coding = coding
        self.max_rate_hz = max_rate_hz
        self.jitter_px = jitter_px
        self.motion_px_per_s = motion_px_per_s
        self.image_size = image_size
        self.val_fraction = val_fraction
        self._check()

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.definitions)

    def _outputs(self) -> int:
        return len(self.images.classes)

    def _check(self) -> None:
        """ValueError for combinations of arguments that annotations cannot express."""
        if not self.definitions:
            raise ValueError("tasks: there is none; define at least one")
        labels = self.images.classes
        for name, task in self.definitions.items():
            if set(task.classes) - set(labels) or len(set(task.classes)) < len(task.classes):
                raise ValueError(
                    f"tasks.{name}.classes: got {list(task.classes)}; expected different labels "
                    f"of {list(labels)}"
                )
            if len(set(task.timings)) < len(task.timings):
                raise ValueError(f"tasks.{name}.timing: {list(task.timings)} names one twice")
            for timing in task.timings:
                if timing not in self.timings:
                    raise ValueError(
                        f"tasks.{name}.timing: no timing {timing!r}; there are "
                        f"{', '.join(self.timings) or 'none'}.{nearest(timing, self.timings)}"
                    )
                rate = self.timings[timing].rate_hz
                if self.coding == "poisson" and self.max_rate_hz > rate:
                    raise ValueError(
                        f"max_rate_hz: got {self.max_rate_hz:g}, above the frame rate of "
                        f"{rate:g} Hz that task {name!r} has; a pixel spikes at most once a frame"
                    )
        if self.coding == "latency" and (self.jitter_px or self.motion_px_per_s):
            raise ValueError(
                "coding: latency needs a still image; set jitter_px and motion_px_per_s to 0"
            )

    def _open(self) -> dict[str, dict[Split, list[Part]]]:
        fingerprint = self.images.fingerprint()
        divided = cache(self._divided)  # images are read only if a file must be made
        opened = {}
        for name, task in self.definitions.items():
            parts: dict[Split, list[Part]] = {split: [] for split in SPLITS}
            for number, timing in enumerate(task.timings):
                path = self._path(name, task, number, fingerprint)
                make = partial(self._make, path, task, timing, number, divided)
                splits = made(path, make, _lacking)
                for split in SPLITS:
                    parts[split].append(all_rows(splits[split]))
            opened[name] = parts
        return opened

    def _divided(self) -> dict[Split, Images]:
        """The images of each split, all classes."""
        rng = np.random.default_rng([self.split_seed, 0])
        train, test = self.images.load(rng)
        val = held_out(train.labels, self.val_fraction, rng)
        return {"train": train.take(~val), "val": train.take(val), "test": test}

    def _path(
        self, name: str, task: TaskDefinition, number: int, fingerprint: Mapping[str, Any]
    ) -> Path:
        """The file of a task at its timing `number`."""
        shaping = {
            "recipe": RECIPE,
            "images": dict(fingerprint),
            "classes": sorted(task.classes),
            "timings": len(task.timings),
            "number": number,
            "rate_hz": self.timings[task.timings[number]].rate_hz,
            "duration_ms": self.timings[task.timings[number]].duration_ms,
            "coding": self.coding,
            "max_rate_hz": self.max_rate_hz if self.coding == "poisson" else None,
            "jitter_px": self.jitter_px,
            "motion_px_per_s": self.motion_px_per_s,
            "image_size": self.image_size,
            "val_fraction": self.val_fraction,
            "split_seed": self.split_seed,
        }
        names = [name] if len(task.timings) == 1 else [name, task.timings[number]]
        label = "-".join("".join(c if c.isalnum() else "_" for c in n) for n in names)
        return self.root / f"{self.images.name}-{label}-{digest(shaping)}.h5"

    def _make(
        self,
        path: Path,
        task: TaskDefinition,
        timing: str,
        number: int,
        divided: Callable[[], dict[Split, Images]],
    ) -> None:
        """Write the file of a task at one of its timings."""
        contents: dict[str, Content] = {}
        for index, split in enumerate(SPLITS):
            rng = np.random.default_rng([self.split_seed, 2, index])
            every = divided()[split]
            mine = every.take(np.isin(every.labels, task.classes))
            mine = mine.take(stratified_order(mine.labels, rng)[number :: len(task.timings)])
            if not len(mine.labels):
                raise DataError(
                    f"{path}: there are no {split} samples of classes {list(task.classes)} with "
                    f"timing {timing!r}; the images are too few for data.val_fraction, "
                    "data.images.test_fraction and the timings."
                )
            contents[split] = self._content(mine, self.timings[timing], rng)
        write(
            path,
            contents,
            rate_hz=self.timings[timing].rate_hz,
            duration_ms=self.timings[timing].duration_ms,
            classes=sorted(task.classes),
            generator=f"neuro {self.images.name}, {self.coding} coding",
        )

    def _content(self, images: Images, timing: Timing, rng: np.random.Generator) -> Content:
        """Sequences and labels of the images of a split."""
        moving = self.jitter_px > 0 or self.motion_px_per_s > 0
        self._check_memory(images, timing, moving)
        if self.image_size is not None:
            images = resized(images, self.image_size)
        if self.motion_px_per_s > 0:  # interpolation of subpixel motion needs all grey levels
            images = images._replace(pixels=to_uint8(images.pixels / images.levels), levels=255)

        def blocks() -> Iterator[store.Array]:
            for start in range(0, len(images.labels), IMAGES_AT_ONCE):
                still = images.pixels[start : start + IMAGES_AT_ONCE, None]
                frames = self._moved(still, timing, rng) if moving else still
                match self.coding:
                    case "poisson":
                        chance = frames / images.levels * (self.max_rate_hz / timing.rate_hz)
                        shape = (len(frames), timing.frames, *frames.shape[2:])
                        spikes = rng.random(shape, dtype=np.float32) < chance
                        yield spikes[:, :, None].astype(np.uint8)
                    case "latency":
                        yield latency_spikes(still[:, 0] / images.levels, timing.frames)[:, :, None]
                    case "analog":
                        yield frames[:, :, None]

        held = timing.frames if self.coding == "analog" and not moving else None
        scale = 1 / images.levels if self.coding == "analog" else 1.0
        return Content(blocks(), images.labels, frames=held, scale=scale)

    def _check_memory(self, images: Images, timing: Timing, moving: bool) -> None:
        """ConfigError if a block of sequences or the resized images do not fit into memory."""
        count, *pixels = images.pixels.shape
        size = self.image_size
        area = prod(pixels) if size is None else size**2
        values = np.dtype(np.float32).itemsize
        if size is not None:
            what = f"data.image_size: {count} images of {size} x {size} pixels"
            check_memory(count * area * values, what, "Choose smaller images.")
        if moving or self.coding != "analog":
            at_once = min(count, IMAGES_AT_ONCE)
            check_memory(
                at_once * timing.frames * area * values,
                f"data.timings: {at_once} sequences of {timing.frames} frames",
                "Choose a shorter duration or a lower frame rate.",
            )

    def _moved(self, still: store.Array, timing: Timing, rng: np.random.Generator) -> store.Array:
        """Frames `[N, T, H, W]` of images `[N, 1, H, W]` with drift and jitter, padded with black.

        Each image drifts in a random direction and is at its original position in the middle of the
        sequence. Jitter is a whole number of pixels, drawn for each frame and axis.
        """
        count = len(still)
        seconds = (np.arange(timing.frames) - (timing.frames - 1) / 2) / timing.rate_hz
        angle = rng.uniform(0, 2 * np.pi, size=count)
        direction = np.stack([np.sin(angle), np.cos(angle)])  # [2, N]
        offset = self.motion_px_per_s * direction[:, :, None] * seconds
        j = self.jitter_px
        down, right = offset + rng.integers(-j, j + 1, size=(2, count, timing.frames))
        return moved(still, down, right)


def _lacking(splits: Mapping[str, store.Split]) -> str:
    """The problem of a file that lacks splits; empty if there is none."""
    if set(splits) == set(SPLITS):
        return ""
    return f"holds {', '.join(splits)} instead of {', '.join(SPLITS)}."
