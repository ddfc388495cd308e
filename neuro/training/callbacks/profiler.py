"""A profile of the first batches of training and validation.

- `simple`: wall time of each part (data, forward, backward, optimizer, checkpoint, the rest)
- `advanced`: Python's cProfile, one table and one .prof file for each stage
- `torch`: torch.profiler, with one trace for chrome://tracing or ui.perfetto.dev

Files are written to the run's `profile/`. Measuring slows training down; after the last measured
batch it has no cost.
"""

from __future__ import annotations

import cProfile
import io
import logging
import pstats
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge

from neuro.config.types import CountFromZero
from neuro.data.base import Batch
from neuro.io.files import write_text
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.sections import Sections, Stage

log = logging.getLogger("neuro")


class Profiler(Callback):
    """Measures the first batches of a run, once, also if the run is resumed.

    - `kind`: simple, advanced or torch (pytorch is the same)
    - `skip_batches`: training batches before the first measured one, in which kernels are compiled
      and memory is allocated
    - `train_batches`, `validation_batches`: numbers of measured batches
    - `shapes`, `memory`, `stacks`: further values that torch's profiler records
    - `rows`: length of the tables of advanced and torch
    """

    main_process_only = True

    def __init__(
        self,
        kind: Literal["simple", "advanced", "torch", "pytorch"] = "simple",
        skip_batches: CountFromZero = 1,
        train_batches: CountFromZero = 10,
        validation_batches: CountFromZero = 5,
        shapes: bool = False,
        memory: bool = True,
        stacks: bool = False,
        rows: Annotated[int, Ge(1)] = 30,
    ) -> None:
        if train_batches == 0 and validation_batches == 0:
            raise ValueError("train_batches, validation_batches: give at least one of them")
        self.kind = kind
        self.skip_batches = skip_batches
        self.wanted: dict[Stage, int] = {"train": train_batches, "validation": validation_batches}
        self.shapes = shapes
        self.memory = memory
        self.stacks = stacks
        self.rows = rows
        self._done = False
        self._measured: StageSections | None = None

    def on_fit_start(self, trainer: TrainerView) -> None:
        if self._done:
            return
        instrument: Instrument
        if self.kind == "simple":
            instrument = Clock(trainer.device)
        elif self.kind == "advanced":
            instrument = Functions(self.rows)
        else:
            instrument = Operators(self.rows, self.shapes, self.memory, self.stacks)
        self._measured = measured = StageSections(instrument, self.wanted, self.skip_batches)
        trainer.profile(measured)
        trainer.add_forward_context(lambda: measured.section("forward"))

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """Write the profile; phases after the first are not measured."""
        if self._measured is None:
            return
        trainer.profile(None)
        directory = trainer.run_dir / "profile"
        directory.mkdir(exist_ok=True)
        self._measured.instrument.write(directory, self._measured.seen)
        log.info("Profile (%s): %s", self.kind, directory)
        self._measured.retire()
        self._measured, self._done = None, True

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._done = state["done"]


class Instrument(ABC):
    """A method of measuring."""

    @abstractmethod
    def turn(self, stage: Stage | None) -> None:
        """Switch to a stage; None stops measuring."""

    def section(self, name: str) -> AbstractContextManager[Any]:
        """Context around a part of the measured work."""
        return nullcontext()

    @abstractmethod
    def write(self, directory: Path, seen: Mapping[Stage, int]) -> None:
        """Write tables and traces; `seen` are the numbers of measured batches."""


class StageSections(Sections):
    """Switches an instrument on for the batches to measure, and off between them."""

    def __init__(self, instrument: Instrument, wanted: Mapping[Stage, int], skipped: int):
        self.instrument = instrument
        self.skipped = skipped  # training batches left to skip
        self.wanted = wanted
        self.seen: dict[Stage, int] = dict.fromkeys(wanted, 0)
        self._stage: Stage | None = None
        self._retired = False

    def section(self, name: str) -> AbstractContextManager[Any]:
        return nullcontext() if self._stage is None else self.instrument.section(name)

    def batches(self, stage: Stage, batches: Iterable[Batch]) -> Iterator[Batch]:
        iterator = iter(batches)
        while stage == "train" and self.skipped > 0:
            batch = next(iterator, None)
            if batch is None:
                return
            self.skipped -= 1
            yield batch
        while not self._retired and self.seen[stage] < self.wanted[stage]:
            with self._during(stage):
                with self.section("data"):
                    batch = next(iterator, None)
                if batch is None:
                    return
                self.seen[stage] += 1
                yield batch
        with self._during(None):  # validation batches do not count for the training batch
            for batch in iterator:
                yield batch

    def retire(self) -> None:
        """Stop measuring permanently; loaders may still hold this object."""
        self._retired, self._stage = True, None

    @contextmanager
    def _during(self, stage: Stage | None) -> Iterator[None]:
        """Measure a stage in the block; a validation interrupts that of a training batch."""
        before = self._stage
        self._turn(stage)
        try:
            yield
        finally:
            self._turn(before)

    def _turn(self, stage: Stage | None) -> None:
        if not self._retired and stage != self._stage:
            self.instrument.turn(stage)
            self._stage = stage


class Clock(Instrument):
    """Exclusive wall-clock time of each part."""

    def __init__(self, device: torch.device):
        self._device = device
        self._stage: Stage | None = None
        self._open: list[str] = []
        self._since = 0.0
        self._seconds: dict[tuple[Stage, str], float] = {}
        self._calls: dict[tuple[Stage, str], int] = {}

    def turn(self, stage: Stage | None) -> None:
        self._charge()
        self._stage, self._open = stage, []

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        self._charge()
        stage = self._stage
        assert stage is not None
        self._open.append(name)
        self._calls[stage, name] = self._calls.get((stage, name), 0) + 1
        try:
            yield
        finally:
            self._charge()
            if self._stage == stage and self._open:
                self._open.pop()

    def _charge(self) -> None:
        """Add the time since the last call to the innermost open part."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # kernels run asynchronously
        now = time.perf_counter()
        if self._stage is not None:
            key = self._stage, self._open[-1] if self._open else "the rest"
            self._seconds[key] = self._seconds.get(key, 0.0) + now - self._since
        self._since = now

    def write(self, directory: Path, seen: Mapping[Stage, int]) -> None:
        lines = [
            f"{'stage':<12}{'part':<14}{'calls':>7}{'seconds':>11}{'ms/batch':>11}{'share':>9}"
        ]
        for stage, batches in seen.items():
            own = {part: s for (of, part), s in self._seconds.items() if of == stage}
            for part, seconds in sorted(own.items(), key=lambda item: -item[1]):
                calls = self._calls.get((stage, part), batches)
                lines.append(
                    f"{stage:<12}{part:<14}{calls:>7}{seconds:>11.4f}"
                    f"{1e3 * seconds / max(batches, 1):>11.3f}{seconds / sum(own.values()):>9.1%}"
                )
        table = "\n".join(lines)
        write_text(directory / "simple.txt", table + "\n")
        log.info(table)


class Functions(Instrument):
    """Python's functions by cumulative time."""

    def __init__(self, rows: int):
        self._rows = rows
        self._profiles: dict[Stage, cProfile.Profile] = {}
        self._running: cProfile.Profile | None = None

    def turn(self, stage: Stage | None) -> None:
        if self._running is not None:
            self._running.disable()
        self._running = None
        if stage is not None:
            self._running = self._profiles.setdefault(stage, cProfile.Profile())
            self._running.enable()

    def write(self, directory: Path, seen: Mapping[Stage, int]) -> None:
        for stage, profile in self._profiles.items():
            text = io.StringIO()
            pstats.Stats(profile, stream=text).sort_stats("cumulative").print_stats(self._rows)
            write_text(
                directory / f"advanced-{stage}.txt", f"{seen[stage]} batches\n{text.getvalue()}"
            )
            profile.dump_stats(directory / f"advanced-{stage}.prof")


class Operators(Instrument):
    """torch's operators and kernels, on one time line with the names of the parts."""

    def __init__(self, rows: int, shapes: bool, memory: bool, stacks: bool):
        self._rows = rows
        self._activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            self._activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._profile = torch.profiler.profile(
            activities=self._activities,
            record_shapes=shapes,
            profile_memory=memory,
            with_stack=stacks,
        )
        self._shapes = shapes
        self._stage: Stage | None = None
        self._started = False

    def turn(self, stage: Stage | None) -> None:
        if not self._started:
            self._profile.start()
            self._started = True
        elif (stage is None) != (self._stage is None):
            self._profile.toggle_collection_dynamic(stage is not None, self._activities)
        self._stage = stage

    def section(self, name: str) -> AbstractContextManager[Any]:
        return torch.profiler.record_function(f"{self._stage}: {name}")

    def write(self, directory: Path, seen: Mapping[Stage, int]) -> None:
        if not self._started:
            return
        self._profile.stop()
        averages = self._profile.key_averages(group_by_input_shape=self._shapes)
        device = "cuda" if len(self._activities) > 1 else "cpu"
        table = averages.table(sort_by=f"self_{device}_time_total", row_limit=self._rows)
        title = ", ".join(f"{count} batches of {stage}" for stage, count in seen.items())
        write_text(directory / "torch.txt", f"{title}\n{table}\n")
        self._profile.export_chrome_trace(str(directory / "trace.json"))
