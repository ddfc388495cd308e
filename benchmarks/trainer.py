"""What the trainer adds to a training step: nothing that one would notice.

A callback at the end of every update runs the same update of the same model in a bare loop (no
trainer, no Fabric, no guard), so the two take turns step by step and a slow moment of the machine
falls on both. The overhead is the median difference of neighbours in processor time, as a share of
the bare step.
"""

from __future__ import annotations

import gc
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch, DataSource, InputSpec, Loader, TargetSpec, TaskSpec
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.losses.mse import MSE
from neuro.learning.objective import Objective
from neuro.models.base import CoreModel
from neuro.models.lithography.unet import UNet
from neuro.models.spiking_cnn import SpikingCNN
from neuro.tracking.base import Trackers
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.callbacks.ema import EMA
from neuro.training.callbacks.gradient_health import GradientHealth
from neuro.training.phases import parse_phases, resolve
from neuro.training.trainer import Trainer

FRAMES, SAMPLES, BATCHES = 30, 4, 50
OFF = {"steps": None, "epochs": None}


class _Loader(Loader):
    """The same batch again and again."""

    def __init__(self, batch: Batch):
        self.batch = batch
        self.samples = len(batch.targets) * BATCHES

    def __len__(self) -> int:
        return BATCHES

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for _ in range(start, BATCHES):
            yield self.batch


class _Data(DataSource):
    """One task whose samples are noise."""

    tasks = ("noise",)

    def __init__(self, batch: Batch, targets: TargetSpec):
        self.batch = batch
        self.targets = targets
        self.batch_size = len(batch.targets)

    def prepare(self) -> None:
        pass

    def spec(self, task: str) -> TaskSpec:
        shape = tuple(self.batch.inputs.shape[2:])
        timing = (self.batch.steps, self.batch.dt_ms)
        return TaskSpec(task, InputSpec(shape), self.targets, (timing,), tuple(range(5)))

    def loader(self, *_: Any, **__: Any) -> Loader:
        return _Loader(self.batch)


class Subject(NamedTuple):
    """What is trained: by the trainer with its objective, and in a bare loop with its loss."""

    name: str
    data: DataSource
    model: Callable[[], CoreModel]
    objective: Callable[[], Objective]
    loss: Callable[[Tensor, Batch], Tensor]


def spiking() -> Subject:
    """LT-Gate on frames of noise."""
    images, labels = torch.rand(SAMPLES, 1, 1, 8, 8), torch.randint(5, (SAMPLES,))
    data = _Data(Batch(images, labels, 1.0, FRAMES), TargetSpec("class", classes=10))

    def model() -> SpikingCNN:
        torch.manual_seed(0)
        return SpikingCNN(data.spec("noise"), DualTimescaleNeuron(gate=Gating("learned")))

    return Subject(
        f"LT-Gate, {SAMPLES} samples, {FRAMES} frames",
        data,
        model,
        lambda: Objective({"cross_entropy": CrossEntropy()}),
        lambda values, batch: F.cross_entropy(values.mean(1), batch.targets),
    )


def imaging() -> Subject:
    """The U-Net on a batch of masks."""
    masks = (torch.rand(SAMPLES, 1, 1, 64, 64) > 0.5).float()
    data = _Data(Batch(masks, masks[:, 0], None), TargetSpec("image", (1, 64, 64)))

    def model() -> UNet:
        torch.manual_seed(0)
        return UNet(data.spec("noise"))

    return Subject(
        f"the U-Net, {SAMPLES} masks",
        data,
        model,
        lambda: Objective({"mse": MSE()}, mapping="none", target="image"),
        lambda values, batch: F.mse_loss(values, batch.targets),
    )


class _Turns(Callback):
    """Runs a bare update after each of the trainer's, and times both."""

    def __init__(self, subject: Subject):
        self.model = subject.model()
        self.loss = subject.loss
        self.loader = subject.data.loader("noise", "train")
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.batches: Iterator[Batch] = iter(())
        self.times: list[tuple[float, float]] = []
        self.left = 0.0

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        start = time.process_time()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = self.loader.batches()
            batch = next(self.batches)
        values = self.model(batch.sequence(), dt_ms=batch.dt_ms).values
        self.loss(values, batch).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = time.process_time()
        if self.left and trainer.progress.step > 10:
            self.times.append((end - start, start - self.left))
        self.left = time.process_time()


class Overhead(NamedTuple):
    """Median seconds of a bare step, and what the trainer adds to it."""

    name: str
    bare_s: float
    added_s: float

    @property
    def share(self) -> float:
        return self.added_s / self.bare_s


def measure(
    subject: Subject,
    name: str,
    callbacks: Mapping[str, Callback],
    updates: int = 200,
    **settings: Any,
) -> Overhead:
    """A phase of so many updates with the callbacks, against the bare loop."""
    turns = _Turns(subject)
    data, model, objective = subject.data, subject.model(), subject.objective()
    chosen = TrainerSettings.model_validate(
        {
            "monitor": "val/loss",
            "direction": "min",
            "objective": "test/loss",
            "accumulate": 1,
            "clip_norm": None,
            "max_skipped": None,
            "log": OFF,
            "validation": OFF,
            "checkpoint": OFF,
            "keep": 0,
            **settings,
        }
    )
    phases = parse_phases(
        {"one": {"task": "noise", "steps": updates}},
        optimizer={"_target_": "neuro.training.optimizers.AdamW", "weight_decay": 0.01},
        scheduler={"_target_": "neuro.training.schedules.Constant"},
    )
    plan = resolve(phases, data=data, model=model, accumulate=1, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            Fabric(accelerator="cpu", devices=1),
            model,
            data,
            objective,
            plan,
            chosen,
            {**callbacks, "turns": turns},
            Trackers([]),
            Path(folder),
        )
        gc.collect()
        gc.freeze()
        trainer.fit()
    return Overhead(
        name,
        statistics.median(bare for bare, _ in turns.times),
        statistics.median(own - bare for bare, own in turns.times),
    )


def main() -> None:
    logging.getLogger("neuro").setLevel(logging.WARNING)
    cases: list[tuple[str, dict[str, Callback], dict[str, Any]]] = [
        ("everything off", {}, {}),
        (
            "EMA and guards",
            {"ema": EMA(), "health": GradientHealth()},
            {"clip_norm": 1.0, "max_skipped": 10},
        ),
    ]
    for subject, updates in ((spiking(), 200), (imaging(), 40)):
        print(f"What the trainer adds to a step of {subject.name}")
        print(f"{'':16}  {'bare loop':>12}  {'added':>12}  {'share':>7}")
        for name, callbacks, settings in cases:
            found = measure(subject, name, callbacks, updates, **settings)
            print(
                f"{found.name:16}  {found.bare_s * 1e3:9.2f} ms  {found.added_s * 1e3:9.3f} ms  "
                f"{found.share:7.1%}"
            )


if __name__ == "__main__":
    main()
