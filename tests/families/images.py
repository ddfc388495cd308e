"""An image-to-image family: random masks, their blurred images, and a convolutional model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt
from torch import nn

from neuro.data.base import Batch, DataSource, InputSpec, Loader, Split, TargetSpec, TaskSpec
from neuro.models.base import CoreModel, ModelOutput

Count = Annotated[int, Gt(0)]
SAMPLES: dict[Split, int] = {"train": 13, "val": 4, "test": 6}


class Masks(DataSource):
    """Binary masks `[1, side, side]`; the target is the mask blurred by a fixed kernel."""

    def __init__(self, batch_size: Count = 4, side: Count = 8):
        self.batch_size = batch_size
        self.side = side

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("imaging",)

    def prepare(self) -> None:
        """Masks are made when they are read."""

    def spec(self, task: str) -> TaskSpec:
        shape = (1, self.side, self.side)
        return TaskSpec(task, InputSpec(shape), TargetSpec("image", shape), ((1, None),))

    def loader(
        self, task: str, split: Split, *, shuffle: bool = False, seed: int = 0, rank: int = 0,
        world_size: int = 1, batch_size: int | None = None,
    ) -> Loader:  # fmt: skip
        return _MaskLoader(self, split, shuffle, seed, rank, world_size)


class _MaskLoader(Loader):
    def __init__(
        self, source: Masks, split: Split, shuffle: bool, seed: int, rank: int, world_size: int
    ):
        generator = torch.Generator().manual_seed(SAMPLES[split])
        self.samples = SAMPLES[split]
        self.masks = (
            torch.rand(self.samples, 1, source.side, source.side, generator=generator) > 0.5
        ).float()
        kernel = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
        self.images = nn.functional.conv2d(self.masks, kernel[None, None], padding=1)
        self.size, self.shuffle, self.seed = source.batch_size, shuffle, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return -(-self.samples // self.size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        order = np.arange(self.samples)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for first in range(start * self.size, self.samples, self.size):
            chosen = np.array_split(order[first : first + self.size], self.world_size)[self.rank]
            masks = self.masks[chosen][:, None]  # one step
            yield Batch(masks, self.images[chosen], None, ids=torch.from_numpy(chosen))


class Blur(CoreModel):
    """Two convolutions from `[B, 1, 1, H, W]` to images `[B, 1, H, W]`."""

    def __init__(self, spec: TaskSpec, channels: Count = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1), nn.Tanh(), nn.Conv2d(channels, 1, 1)
        )

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        return ModelOutput(self.layers(inputs[:, 0]), (), {})
