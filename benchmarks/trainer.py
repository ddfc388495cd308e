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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric

from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch, DataSource, InputSpec, Loader, TargetSpec, TaskSpec
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
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
    """The same few batches in every epoch."""

    samples = SAMPLES * BATCHES

    def __len__(self) -> int:
        return BATCHES

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(SAMPLES, 1, 1, 8, 8, generator=generator)
        labels = torch.randint(5, (SAMPLES,), generator=generator)
        for _ in range(start, BATCHES):
            yield Batch(images, labels, 1.0, FRAMES)


class _Data(DataSource):
    """One task whose samples are noise."""

    batch_size = SAMPLES
    tasks = ("noise",)

    def prepare(self) -> None:
        pass

    def spec(self, task: str) -> TaskSpec:
        return TaskSpec(
            task,
            InputSpec((1, 8, 8)),
            TargetSpec("class", classes=10),
            ((FRAMES, 1.0),),
            tuple(range(5)),
        )

    def loader(self, *_: Any, **__: Any) -> Loader:
        return _Loader()


class _Turns(Callback):
    """Runs a bare update after each of the trainer's, and times both."""

    def __init__(self, model: SpikingCNN):
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.batches: Iterator[Batch] = iter(())
        self.times: list[tuple[float, float]] = []
        self.left = 0.0

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        start = time.process_time()
        batch = next(self.batches, None)
        if batch is None:
            self.batches = _Loader().batches()
            batch = next(self.batches)
        values = self.model(batch.sequence(), dt_ms=batch.dt_ms).values
        F.cross_entropy(values.mean(1), batch.targets).backward()
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


def _model() -> SpikingCNN:
    torch.manual_seed(0)
    return SpikingCNN(_Data().spec("noise"), DualTimescaleNeuron(gate=Gating("learned")))


def measure(
    name: str, callbacks: Mapping[str, Callback], updates: int = 200, **settings: Any
) -> Overhead:
    """A phase of so many updates with the callbacks, against the bare loop."""
    turns = _Turns(_model())
    data, model = _Data(), _model()
    chosen = TrainerSettings.model_validate(
        {
            "monitor": "val/accuracy",
            "direction": "max",
            "objective": "test/accuracy",
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
            Objective({"cross_entropy": CrossEntropy()}),
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
    found = [measure(name, callbacks, **settings) for name, callbacks, settings in cases]
    print(f"What the trainer adds to a step of LT-Gate, {SAMPLES} samples, {FRAMES} frames")
    print(f"{'':16}  {'bare loop':>12}  {'added':>12}  {'share':>7}")
    for case in found:
        print(
            f"{case.name:16}  {case.bare_s * 1e3:9.2f} ms  {case.added_s * 1e3:9.3f} ms  "
            f"{case.share:7.1%}"
        )


if __name__ == "__main__":
    main()
