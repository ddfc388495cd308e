"""A small data source in memory, a linear model, and a trainer for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from neuro.config.hardware import HardwareSettings
from neuro.config.trainer import TrainerSettings
from neuro.data.base import Batch, DataSource, InputSpec, Loader, Split, TargetSpec, TaskSpec
from neuro.data.uses import OutputMapping
from neuro.errors import ConfigError
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.terms import Term
from neuro.models.base import CoreModel, ModelOutput
from neuro.tracking.base import RunInfo, Trackers
from neuro.tracking.jsonl import JsonlTracker, read_rows
from neuro.training.callbacks.base import Callback, Setup
from neuro.training.phases import parse_phases, resolve
from neuro.training.trainer import Trainer

SIDE = 6
TIMINGS = {"fast": (6, 1.0), "slow": (4, 20.0)}
CLASSES = {"fast": (0, 1), "slow": (2, 3)}
SIZES: dict[Split, int] = {"train": 14, "val": 6, "test": 8}


class FakeLoader(Loader):
    """Batches of tensors in an order that depends on (seed, epoch) only."""

    def __init__(
        self, inputs: Tensor, targets: Tensor, timing: tuple[int, float | None], batch_size: int,
        *, shuffle: bool = False, seed: int = 0, rank: int = 0, world_size: int = 1,
    ):  # fmt: skip
        self.rank, self.world_size = rank, world_size
        self.inputs, self.targets = inputs, targets
        self.frames, self.dt_ms = timing
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.samples = len(targets)

    def __len__(self) -> int:
        return -(-self.samples // self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        order = np.arange(self.samples)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        for i in range(start * self.batch_size, self.samples, self.batch_size):
            chosen = np.array_split(order[i : i + self.batch_size], self.world_size)[self.rank]
            yield Batch(
                self.inputs[chosen],
                self.targets[chosen],
                self.dt_ms,
                self.frames,
                ids=torch.from_numpy(chosen),
            )


class FakeData(DataSource):
    """Two tasks of two classes each: a random image per class, with noise, held for some frames."""

    def __init__(self, batch_size: int = 4, noise: float = 0.2):
        self.batch_size = batch_size
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(4, 1, SIDE, SIDE, generator=generator)
        self.splits: dict[tuple[str, Split], tuple[Tensor, Tensor]] = {}
        for task, classes in CLASSES.items():
            for split, size in SIZES.items():
                labels = torch.tensor([classes[i % 2] for i in range(size)])
                blur = noise * torch.randn(size, 1, SIDE, SIDE, generator=generator)
                self.splits[task, split] = ((images[labels] + blur).unsqueeze(1), labels)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(CLASSES)

    def prepare(self) -> None:
        pass

    def spec(self, task: str) -> TaskSpec:
        if task not in CLASSES:
            raise ConfigError(f"no task '{task}'")
        inputs, targets = InputSpec((1, SIDE, SIDE)), TargetSpec("class", classes=4)
        return TaskSpec(task, inputs, targets, (TIMINGS[task],), CLASSES[task])

    def loader(
        self, task: str, split: Split, *, shuffle: bool = False, seed: int = 0,
        rank: int = 0, world_size: int = 1, batch_size: int | None = None,
    ) -> FakeLoader:  # fmt: skip
        inputs, targets = self.splits[task, split]
        size = batch_size or self.batch_size
        return FakeLoader(
            inputs, targets, TIMINGS[task], size, shuffle=shuffle, seed=seed,
            rank=rank, world_size=world_size,
        )  # fmt: skip


class Linear(CoreModel):
    """Scores as a linear map of each frame; two phase flags for curricula."""

    def __init__(self, spec: TaskSpec, hidden: int = 0):
        super().__init__()
        size = int(np.prod(spec.inputs.shape))
        self.first = nn.Linear(size, hidden) if hidden else nn.Identity()
        self.last = nn.Linear(hidden or size, spec.outputs)
        self.scale = 1.0
        self.lifelong = False

    @property
    def recordable(self) -> tuple[str, ...]:
        return ("features",)

    @property
    def phase_flags(self) -> tuple[str, ...]:
        return ("scale", "lifelong")

    def initial_state(self, batch_size: int) -> tuple[()]:
        return ()

    def forward(self, inputs, state=None, *, dt_ms, record=()) -> ModelOutput:  # type: ignore[no-untyped-def]
        hidden = self.first(inputs.flatten(2))
        records = {"features": hidden.mean(1)} if record else {}
        return ModelOutput(self.scale * self.last(hidden), (), records)


SETTINGS: dict[str, Any] = {
    "monitor": "val/accuracy",
    "direction": "max",
    "objective": "test/accuracy",
    "accumulate": 1,
    "clip_norm": None,
    "max_skipped": 3,
    "log": {"steps": 2},
    "validation": {"epochs": 1},
    "checkpoint": {"epochs": 1},
    "keep": 0,
}
SGD = {"_target_": "neuro.training.optimizers.SGD", "lr": 0.1, "momentum": 0.0}
ADAMW = {"_target_": "neuro.training.optimizers.AdamW", "lr": 0.01}
COSINE = {"_target_": "neuro.training.schedules.Cosine"}
CONSTANT = {"_target_": "neuro.training.schedules.Constant"}
ONE_PHASE = {"one": {"task": "fast", "epochs": 2}}
TWO_PHASES = {"one": {"task": "fast", "epochs": 2}, "two": {"task": "slow", "epochs": 2}}


def make_settings(**changes: Any) -> TrainerSettings:
    return TrainerSettings.model_validate({**SETTINGS, **changes}, strict=False)


def hardware(**changes: Any) -> HardwareSettings:
    """One process on the CPU, with the given changes."""
    usual = {"device": "cpu", "devices": 1, "precision": "32-true", "strategy": "auto"}
    return HardwareSettings.model_validate({**usual, "compile": False, **changes})


def make_trainer(
    directory: Path,
    model: CoreModel,
    *,
    data: FakeData | None = None,
    terms: Mapping[str, Term] | None = None,
    phases: Mapping[str, Any] = ONE_PHASE,
    optimizer: Mapping[str, Any] = SGD,
    scheduler: Mapping[str, Any] = CONSTANT,
    callbacks: Mapping[str, Callback] | None = None,
    state: Mapping[str, Any] | None = None,
    fabric: Fabric | None = None,
    pretrained: bool = False,
    mapping: OutputMapping = "seq2static",
    interrupted: Any = lambda: False,
    **settings: Any,
) -> Trainer:
    """A trainer on the fakes, with metrics.jsonl in `directory`; `state` is for a resumed run."""
    data = data or FakeData()
    chosen = make_settings(**settings)
    jsonl = JsonlTracker()
    tracker = Trackers([jsonl])
    history = state["metrics_length"] if state else 0
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "run_meta.json"):  # marks a run directory
        (directory / name).write_text("{}")
    tracker.start(
        RunInfo(directory, "run", "name", "project", resumed=state is not None, kept_bytes=history),
        {},
    )
    plan = resolve(
        parse_phases(phases, optimizer, scheduler, data.tasks), data=data, model=model,
        accumulate=chosen.accumulate, seed=0,
        rank=fabric.global_rank if fabric else 0, world_size=fabric.world_size if fabric else 1,
    )  # fmt: skip
    return Trainer(
        fabric or Fabric(accelerator="cpu", devices=1),
        model, data, Objective(terms or {"ce": CrossEntropy()}, mapping), plan, chosen,
        callbacks or {},
        tracker, directory, pretrained=pretrained, metrics_length=jsonl.length,
        interrupted=interrupted,
    )  # fmt: skip


def make_setup(
    model: CoreModel,
    *,
    terms: Mapping[str, Term] | None = None,
    phases: Mapping[str, Any] = ONE_PHASE,
    validated: Sequence[str] = (),
    callbacks: Mapping[str, Callback] | None = None,
    **settings: Any,
) -> Setup:
    """A `Setup` of the fakes, for the checks of callbacks."""
    data, chosen = FakeData(), make_settings(**settings)
    parsed = parse_phases(phases, SGD, CONSTANT, data.tasks)
    plan = resolve(parsed, data=data, model=model, accumulate=chosen.accumulate, seed=0)
    objective = Objective(terms or {"ce": CrossEntropy()})
    return Setup(model, data, objective, plan, chosen, validated, callbacks or {})


def linear(task: str = "fast", hidden: int = 0, seed: int = 0) -> Linear:
    """A linear model with fixed initial weights."""
    torch.manual_seed(seed)
    return Linear(FakeData().spec(task), hidden)


def rows(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without values that depend on the clock."""
    timed = ("time", "train/samples_per_s", "train/tokens_per_s")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(directory)]


def series(directory: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) of one metric."""
    return [(row["step"], row[name]) for row in rows(directory) if name in row]


def same_state(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether two state dicts are bit-identical."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def plain(value: Any) -> Any:
    """Numbers after a round trip through JSON."""
    return json.loads(json.dumps(value))
