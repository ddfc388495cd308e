"""The training loop: phases, epochs, updates; validation, checkpoints and resume around them.

It receives the model, the data, the objective and a resolved curriculum, and knows none of them
by name. Devices, precision and parallel strategies are Lightning Fabric's; everything optional is
a callback. A checkpoint is written only when everything due after an update has been done, so a
resumed run repeats the very same numbers.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from neuro.data.base import Batch, DataSource, Split
from neuro.errors import ConfigError, DivergedError, Interrupted, OutOfMemoryError
from neuro.files import hard_link
from neuro.learning.evaluation import Sums, evaluate
from neuro.learning.objective import (
    Increment,
    Loss,
    Objective,
    TrainStep,
    WeightChange,
    add_increments,
)
from neuro.learning.shares import gathered
from neuro.models.base import CoreModel
from neuro.tracking.base import Tracker
from neuro.training import checkpoint, randomness
from neuro.training.callbacks.base import Callback
from neuro.training.lr_find import RateSearch, everything_kept, sweep
from neuro.training.meter import Meter
from neuro.training.optimizers import load_state_by_name, state_by_name
from neuro.training.phases import PhasePlan
from neuro.training.report import make_report, mean, named, untrained_tasks
from neuro.training.sections import Observed, Sections
from neuro.training.sequences import SequenceRunner
from neuro.training.settings import TrainerSettings
from neuro.training.stability import GradientGuard, all_finite

log = logging.getLogger("neuro")


@dataclass
class Progress:
    """Where a run is. Counted in optimizer updates; `batch` and `epoch` are within the phase.

    `entered` says that the phase's start is behind it, `stopped` why it ends before its time.
    """

    step: int = 0
    phase_index: int = 0
    phase_step: int = 0
    epoch: int = 0
    batch: int = 0
    samples: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    entered: bool = False
    stopped: str | None = None


class Trainer:
    """Trains a model through a curriculum.

    `pretrained` says that the weights came from another run; `metrics_length` tells how much of
    metrics.jsonl a checkpoint covers; `interrupted` is polled between updates.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: CoreModel,
        data: DataSource,
        objective: Objective,
        plan: Sequence[PhasePlan],
        settings: TrainerSettings,
        callbacks: Mapping[str, Callback],
        tracker: Tracker,
        run_dir: Path,
        pretrained: bool = False,
        metrics_length: Callable[[], int] = lambda: 0,
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self.fabric = fabric
        self.model = model
        self.data = data
        self.objective = objective
        self.plan = tuple(plan)
        self.phase = self.plan[0]
        self.settings = settings
        self.callbacks = {
            name: callback
            for name, callback in callbacks.items()
            if fabric.is_global_zero or not callback.main_process_only
        }
        self.tracker = tracker
        self.run_dir = run_dir
        self.pretrained = pretrained
        self.checkpoints = run_dir / "checkpoints"
        self.is_main = fabric.is_global_zero
        self.progress = Progress()
        self.optimizer: Any = None
        self.lr = 0.0
        self.grad_norm: Tensor | None = None  # of the last update, before clipping
        self.held_lr: float | None = None  # by a callback, in the place of the schedule's rate
        self.best: float | None = None
        self.found: dict[str, float] = {}  # learning rates of phases with lr=auto
        self.rows: list[dict[str, dict[str, float]]] = []  # after each phase: task -> metrics
        self.initial: dict[str, dict[str, float]] = {}
        self.validation: dict[str, float] = {}
        self._metrics_length = metrics_length
        self._interrupted = interrupted
        self.sequences = SequenceRunner(fabric, model, objective, settings.tbptt, settings.stateful)
        # of the forward pass in training alone; callbacks add to them in `on_fit_start`
        self.weight_changes: list[WeightChange] = []
        self.surroundings: list[Callable[[], AbstractContextManager[Any]]] = []
        self.sections = Sections()  # a profiler puts its own here in `on_fit_start`
        self._batch_hooks = [
            callback.on_batch
            for callback in self.callbacks.values()
            if type(callback).on_batch is not Callback.on_batch
        ]
        self._meter = Meter()
        self._in_phase = False
        self._gathered: dict[str, Any] = {}  # of all processes, for the next checkpoint
        self._chosen: Mapping[str, Tensor] | None = None  # by a callback, for the phase's end
        self._carried: dict[str, Any] = {}  # what the next phase's optimizer takes over
        self._logged = time.perf_counter(), 0

    # -- the curriculum ---------------------------------------------------------------------------

    def fit(self, resume: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Run all phases, or the rest of them from a checkpoint's state; returns the report."""
        self.model.to(self.fabric.device)
        if resume is not None:
            self._restore(resume)
        self._call("on_fit_start")
        for phase in self.plan[self.progress.phase_index :]:
            self.phase = phase
            try:
                self._enter(phase, resume)
                self._find_rate_if_asked(phase)
                self._run_epochs(phase)
                self._leave(phase)
            except (MemoryError, RuntimeError) as error:
                self._raise_if_out_of_memory(error)
                raise
            resume = None
        report = make_report(self.plan, self.rows, self.initial, self.validation)
        if self.found:
            report["found_lr"] = dict(self.found)
        self._call("on_fit_end", report)
        return report

    def stop_phase(self, reason: str) -> None:
        """End the current phase after this update (not the run)."""
        self.progress.stopped = reason

    def end_phase_with(self, weights: Mapping[str, Tensor]) -> None:
        """In `on_training_end`: let the phase end with these weights instead of its last ones."""
        self._chosen = weights

    def _enter(self, phase: PhasePlan, resume: Mapping[str, Any] | None) -> None:
        """Put flags, frozen parameters, optimizer and the parallel wrapper of a phase in place."""
        self.model.set_phase(**phase.flags)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(not phase.frozen(name))
        memory = self._carried if resume is None else resume["optimizer"]
        optimizer = phase.optimizer(self.model.named_parameters())
        self.optimizer = self.fabric.setup_optimizers(optimizer)
        self._peaks = [group["lr"] for group in self.optimizer.param_groups]
        load_state_by_name(self.optimizer.optimizer, self.model, memory)
        self.guard = GradientGuard(self.fabric, self.model, self.optimizer.optimizer, self.settings)
        if resume is not None:
            rank = self.fabric.global_rank
            randomness.restore(resume["rng"][rank if rank < len(resume["rng"]) else 0])
        if not self.progress.entered:
            self.best = None
            if phase.index == 0:
                self.initial = self._test(untrained_tasks(self.plan))
            self._call("on_phase_start")
            self.progress.entered = True
        self.step = self.fabric.setup_module(
            TrainStep(self.model, self.objective, self.weight_changes, self.surroundings)
        )
        self._buffers = dict(self.model.named_buffers())
        self.model.train()

    def _leave(self, phase: PhasePlan) -> None:
        """Choose the phase's weights, let model and objective consolidate, and test the result."""
        self._chosen = None
        self._call("on_training_end")
        if self._chosen is not None:
            self.model.load_state_dict(self._chosen)
        elif phase.carry_weights == "best" and self.best is not None:
            self.fabric.barrier()  # the main process has written it
            state = checkpoint.load(self._path(f"{phase.name}-best"))
            self.model.load_state_dict(state["model"])
        self.model.consolidate(self._on_device(phase.own.batches()))
        self.objective.consolidate(self.model, self._on_device(phase.own.batches()))
        results = self._test(phase.evaluate)
        self.rows.append(results)
        metrics = named(results)
        self.tracker.log(metrics, self.progress.step)
        self._call("on_phase_end", metrics)
        self.sequences.reset()
        carry = phase.carry_optimizer
        self._carried = state_by_name(self.optimizer.optimizer, self.model) if carry else {}
        self.progress = Progress(
            step=self.progress.step,
            phase_index=phase.index + 1,
            samples=self.progress.samples,
            skipped=self.progress.skipped,
        )
        self._save(f"{phase.name}-final")  # before `last`, with which the phase is behind us
        self._save("last")

    # -- one phase --------------------------------------------------------------------------------

    def _run_epochs(self, phase: PhasePlan) -> None:
        settings, progress = self.settings, self.progress
        self._logged = time.perf_counter(), progress.samples
        self._in_phase = True
        while not self._over():
            batches = phase.loader.batches(progress.epoch, progress.batch)
            observed = self.sections.batches("train", batches)
            for group in _groups(observed, settings.accumulate):
                self._set_rate()
                self._update(group)
                epoch = progress.epoch + 1 if progress.batch >= len(phase.loader) else None
                last = phase.over(epoch or progress.epoch, progress.phase_step)
                logged = settings.log.due(progress.phase_step, epoch, last)
                self._call("on_step", self._log() if logged else {})
                if epoch is not None:
                    self.sequences.reset()
                    self._call("on_epoch_end")
                    progress.epoch, progress.batch = epoch, 0
                if settings.validation.due(progress.phase_step, epoch, self._over()):
                    self._validate()
                if settings.checkpoint.due(progress.phase_step, epoch, self._over()):
                    with self.sections.section("checkpoint"):
                        self._save("last", periodic=True)
                self._stop_if_diverged()
                self._stop_if_asked()
                if self._over():
                    break
        self._in_phase = False
        if self._meter:  # a callback ended the phase between two logs
            self._log()

    def _over(self) -> bool:
        progress = self.progress
        return progress.stopped is not None or self.phase.over(progress.epoch, progress.phase_step)

    def _update(self, group: Sequence[Batch]) -> None:
        """One optimizer update from a group of micro-batches, skipped if it is not finite."""
        progress = self.progress
        counts = [len(batch.targets) for batch in group]
        total = self._samples_of_update(sum(counts))
        losses: list[Loss] = []
        increments: dict[str, Increment] = {}
        for i, batch in enumerate(self._on_device(group)):
            share: Any = counts[i] / total
            for prepare in self._batch_hooks:
                batch = prepare(self, batch)
            with self.sections.section("backward"):  # the forward pass in it has its own
                loss = self.sequences.learn(self.step, batch, share, last=i == len(group) - 1)
            losses.append(loss)
            add_increments(increments, loss.increments, share)
        norm = self.grad_norm = self.guard.norm()
        checked = [loss.total for loss in losses] + [x.value for x in increments.values()]
        if self._everywhere(all_finite(checked if norm is None else [norm, *checked])):
            if norm is not None:
                with self.sections.section("optimizer"):
                    self.guard.clip(norm)
                    self.optimizer.step()
            self._apply(increments)
            self._measure(losses, counts, norm)
            progress.skipped_in_a_row = 0
        else:
            if norm is not None:
                self.guard.lower_scale()
            self.sequences.skipped()
            progress.skipped += 1
            progress.skipped_in_a_row += 1
            if self.is_main:
                log.warning(
                    "Update %d skipped: loss or gradient is not finite (%d in a row, %d in all).",
                    progress.step + 1, progress.skipped_in_a_row, progress.skipped,
                )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.phase_step += 1
        progress.batch += len(group)
        progress.samples += sum(counts)

    def _apply(self, increments: Mapping[str, Increment]) -> None:
        for name, increment in increments.items():
            value = increment.value
            if self.fabric.world_size > 1:
                reduced = self.fabric.all_reduce(value, reduce_op=increment.reduce)
                value = cast(Tensor, reduced)
            self._buffers[name].add_(value.to(self._buffers[name].dtype))

    def _samples_of_update(self, own: int) -> Tensor | int:
        """What to divide this process's sample counts by, so that weighted losses and increments,
        averaged over processes, are means over all samples of the update."""
        if self.fabric.world_size == 1:
            return own
        counted = self._sum_over_processes(torch.tensor(float(own), device=self.fabric.device))
        return counted / self.fabric.world_size

    def _set_rate(self) -> None:
        factor = self.phase.schedule.factor(self.progress.phase_step, self.phase.span)
        if self.held_lr is not None:
            factor = self.held_lr / self._peaks[0]
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self._peaks[0] * factor

    # -- looking for a rate -----------------------------------------------------------------------

    def find_rate(self) -> RateSearch:
        """The learning-rate range test on the first phase, before any training; nothing is kept."""
        self.model.to(self.fabric.device)
        self._call("on_fit_start")
        self._enter(self.phase, None)
        return self._sweep()

    def _find_rate_if_asked(self, phase: PhasePlan) -> None:
        """With optimizer.lr=auto: search, once per phase, and take what was found for its peak."""
        if not phase.optimizer.auto:
            return
        if phase.name not in self.found:
            search = self._sweep()
            if search.suggestion is None:
                raise ConfigError(f"optimizer.lr=auto: {search.lines()[0]} Give a number.")
            self.found[phase.name] = search.suggestion
            for line in search.lines() if self.is_main else ():
                log.info("%s: %s", phase.name, line)
            self.tracker.log({"lr_find/suggestion": search.suggestion}, self.progress.step)
            if self.is_main:
                name = "lr_find" if len(self.plan) == 1 else f"lr_find-{phase.name}"
                path = search.save_plot(self.run_dir / "plots" / f"{name}.png")
                self.tracker.log_artifact(path, f"plots/{name}")
        self._peaks = self._rates_at(self.found[phase.name])

    def _sweep(self) -> RateSearch:
        """Sweep the rate over the phase's batches, and put everything back as it was."""
        groups = (
            group
            for epoch in itertools.count()
            for group in _groups(self.phase.loader.batches(epoch), self.settings.accumulate)
        )
        with everything_kept(self):
            return sweep(self.settings.lr_find, lambda rate: self._loss_at(rate, groups))

    def _loss_at(self, rate: float, groups: Iterator[Sequence[Batch]]) -> float:
        """The loss that an update at a rate reports; NaN if it could not be made."""
        if self._asked_to_stop():
            raise Interrupted("Interrupted in the search for a learning rate; nothing was trained.")
        for group, own in zip(self.optimizer.param_groups, self._rates_at(rate), strict=True):
            group["lr"] = own
        for _ in range(self.settings.max_skipped):
            self._update(next(groups))
            loss = self._meter.read(self._sum_over_processes).get("loss")
            if loss is not None:
                return loss
            if not self.guard.scaled:  # else the loss was scaled too far, which is lower now
                break
        return math.nan

    def _rates_at(self, lr: float) -> list[float]:
        """The rates of all parameter groups where the optimizer's is `lr`."""
        made = self.phase.optimizer.at(lr)(self.model.named_parameters())
        return [group["lr"] for group in made.param_groups]

    # -- measuring --------------------------------------------------------------------------------

    def _measure(self, losses: Sequence[Loss], counts: Sequence[int], norm: Tensor | None) -> None:
        """Add an update to the running means, on the device and without waiting for it."""
        for loss, count in zip(losses, counts, strict=True):
            self._meter.add("loss", loss.reported, count)
            self._meter.add("accuracy", loss.accuracy, count)
            if len(loss.terms) > 1:
                for name, value in loss.terms.items():
                    self._meter.add(name, value, count)
        if norm is not None:
            self._meter.add("grad_norm", norm, 1)

    def _log(self) -> dict[str, float]:
        """Means since the last log, over all processes."""
        progress = self.progress
        means = self._meter.read(self._sum_over_processes)
        metrics = {f"train/{name}": value for name, value in means.items()}
        (before, samples), now = self._logged, time.perf_counter()
        share = (progress.samples - samples) * self.fabric.world_size
        metrics["train/lr"] = self.lr
        metrics["train/samples_per_s"] = share / (now - before)
        if progress.skipped:
            metrics["train/skipped_updates"] = float(progress.skipped)
        self._logged = now, progress.samples
        self.tracker.log(metrics, progress.step)
        return metrics

    def validate(self, prefix: str = "val") -> dict[str, float]:
        """Metrics of the model as it is now on the phase's validation data; all processes join.

        `<prefix>/<metric>` is the mean over the tasks, `<prefix>/<task>/<metric>` one of several.
        """
        per_task = self.measure(self.phase.tasks, "val")
        names = next(iter(per_task.values()))
        metrics = {f"{prefix}/{n}": mean(row[n] for row in per_task.values()) for n in names}
        if len(per_task) > 1:
            metrics |= {
                f"{prefix}/{t}/{n}": v for t, row in per_task.items() for n, v in row.items()
            }
        return metrics

    def _validate(self) -> None:
        """Validate on the phase's tasks; a new best of the monitored metric is saved."""
        metrics = self.validate()
        self.validation = metrics
        self.tracker.log(metrics, self.progress.step)
        self._call("on_validation", metrics)
        value = metrics[self.settings.monitor]
        self.phase.schedule.observe(
            value, self.settings.direction, self.progress.phase_step, self.phase.span
        )
        if self.settings.better(value, self.best):
            self.best = value
            self._save(f"{self.phase.name}-best")
            if self.is_main:
                hard_link(self._path(f"{self.phase.name}-best"), self._path("best"))

    def _test(self, tasks: Iterable[str]) -> dict[str, dict[str, float]]:
        return self.measure(tasks, "test")

    def measure(self, tasks: Iterable[str], split: Split) -> dict[str, dict[str, float]]:
        """Loss and accuracy of the model as it is now, by task; all processes take part."""
        return {task: self._evaluate(task, split) for task in tasks}

    def _evaluate(self, task: str, split: Split) -> dict[str, float]:
        loader = self.data.loader(
            task, split, rank=self.fabric.global_rank, world_size=self.fabric.world_size
        )
        streams = self.sequences.validation_streams() if split == "val" else None
        if split == "val":
            loader = Observed(loader, self.sections)
        sums = evaluate(self.model, self.objective, loader, self.fabric.device, streams)
        return Sums(*self._sum_over_processes(torch.stack(sums))).metrics()

    def _everywhere(self, flag: Tensor) -> bool:
        """Whether a flag of 0 or 1 is set on all processes."""
        return float(self._sum_over_processes(flag)) == self.fabric.world_size

    def _sum_over_processes(self, value: Tensor) -> Tensor:
        if self.fabric.world_size == 1:
            return value
        return cast(Tensor, self.fabric.all_reduce(value, reduce_op="sum"))

    # -- saving, resuming, stopping ---------------------------------------------------------------

    def _save(self, name: str, periodic: bool = False, alone: bool = False) -> None:
        """Write a checkpoint; with `periodic`, keep numbered ones beside it as configured.

        `alone`: other processes may not come here, so nothing is gathered from them.
        """
        self.tracker.flush()
        self._gather(alone)
        sequences = self.sequences.state_dict(alone)
        if not self.is_main:
            return
        path = self._path(name)
        checkpoint.save(path, {**self._state(), "sequences": sequences})
        if periodic and self.settings.keep:
            checkpoint.keep_copy(path, self.progress.step, self.settings.keep)

    def _gather(self, alone: bool) -> None:
        """Collect what differs between processes, for a checkpoint that the main one writes."""
        own = {"meter": self._meter.state_dict(), "rng": randomness.capture()}
        states = [own] if alone else gathered(own)
        self._gathered = {name: [state[name] for state in states] for name in own}

    def save_weights(self, name: str, also: str) -> None:
        """Save the model as it is now, for evaluation and `init_from`, under two names."""
        if self.is_main:
            state = {
                "model": self.model.state_dict(),
                "objective": self.objective.state_dict(),
                "progress": asdict(self.progress),
            }
            checkpoint.save(self._path(name), state)
            hard_link(self._path(name), self._path(also))

    def _path(self, name: str) -> Path:
        return self.checkpoints / f"{name}{checkpoint.SUFFIX}"

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": state_by_name(self.optimizer.optimizer, self.model)
            if self.progress.entered
            else self._carried,
            "schedule": self.phase.schedule.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "callbacks": {name: cb.state_dict() for name, cb in self.callbacks.items()},
            "progress": asdict(self.progress),
            "phase": self.phase.name,
            "lengths": {phase.name: [phase.epochs, phase.steps] for phase in self.plan},
            "batch_size": self.data.batch_size,
            "best": self.best,
            "found_lr": self.found,
            "rows": self.rows,
            "initial": self.initial,
            "validation": self.validation,
            "metrics_length": self._metrics_length(),
            **self._gathered,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Take everything but the optimizer (made by its phase) back from a checkpoint."""
        checkpoint.load_weights(self.model, state["model"], "the checkpoint")
        self.objective.load_state_dict(state["objective"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        for name, callback in self.callbacks.items():
            if name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][name])
        self.progress = Progress(**state["progress"])
        self.progress.batch = self.progress.batch * state["batch_size"] // self.data.batch_size
        self.phase = self.plan[min(self.progress.phase_index, len(self.plan) - 1)]
        if self.progress.batch >= len(self.phase.loader):  # saved while an epoch was ending
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
        if self.phase.steps is None:  # so that a schedule is as far as the samples are
            groups = math.ceil(self.progress.batch / self.settings.accumulate)
            self.progress.phase_step = self.progress.epoch * self.phase.steps_per_epoch + groups
        if self.progress.entered:
            self.phase.schedule.load_state_dict(state["schedule"])
        self._refuse_new_lengths(state["lengths"])
        self.best = self._best_before(state)
        self.sequences.load_state_dict(state["sequences"])
        self.found = state["found_lr"]
        self.rows = state["rows"]
        self.initial = state["initial"]
        self.validation = state["validation"]
        self._meter.load_state_dict(
            state["meter"], self.fabric.global_rank, self.fabric.world_size, self.fabric.device
        )

    def _refuse_new_lengths(self, before: Mapping[str, Sequence[int | None]]) -> None:
        """ConfigError if a phase that is behind us was given another length."""
        for phase in self.plan[: self.progress.phase_index]:
            if before[phase.name] != [phase.epochs, phase.steps]:
                raise ConfigError(
                    f"phase.{phase.name}: this phase is finished, so its epochs or steps can no "
                    "longer change. Start a new run with init_from to train on."
                )

    def _best_before(self, state: Mapping[str, Any]) -> float | None:
        """The best value so far, unless its checkpoint has since made way for a later one.

        That one is made again when the run goes on as it did before; if it does not, its weights
        belong to a future that does not come.
        """
        path = self._path(f"{self.phase.name}-best")
        if state["best"] is None or not path.is_file():
            return None
        kept: int = checkpoint.load(path)["progress"]["step"]
        return state["best"] if kept <= self.progress.step else None

    def _stop_if_asked(self) -> None:
        """Save and leave between two updates when a signal came to any process."""
        if self._asked_to_stop():
            self._save("last")
            raise Interrupted(f"Interrupted at update {self.progress.step}; the run was saved.")

    def _asked_to_stop(self) -> bool:
        asked = torch.tensor(float(self._interrupted()))
        if self.fabric.world_size > 1:
            asked = self._sum_over_processes(self.fabric.to_device(asked))
        return bool(asked > 0)

    def _stop_if_diverged(self) -> None:
        progress = self.progress
        in_a_row = progress.skipped_in_a_row
        if in_a_row >= self.settings.max_skipped:
            progress.skipped_in_a_row = 0  # a resumed run has as many again
            self._save("last")
            raise DivergedError(
                f"Training diverged: {in_a_row} updates in a row had a "
                f"non-finite loss or gradient (update {progress.step}). Weights from before are "
                f"in {self._path('last')}. Try a lower optimizer.lr or "
                "trainer.clip_norm=1."
            )

    def _raise_if_out_of_memory(self, error: BaseException) -> None:
        memory_error = isinstance(error, (torch.OutOfMemoryError, MemoryError))
        if not memory_error and "allocate memory" not in str(error):
            return
        progress = self.progress
        saved = "the last checkpoint was kept"
        if self._in_phase:
            self.optimizer.zero_grad(set_to_none=True)
            self._save("last", alone=True)
            saved = f"everything up to update {progress.step} was saved"
        advice = ["hardware.precision=bf16-mixed", "trainer.tbptt={length: <frames>} in a new run"]
        if self.data.batch_size > 1:
            advice.insert(
                0,
                f"data.batch_size={self.data.batch_size // 2} with "
                f"trainer.accumulate={2 * self.settings.accumulate}",
            )
        raise OutOfMemoryError(
            f"Out of memory after update {progress.step}; {saved}. Try {', or '.join(advice)}."
        ) from error

    def _on_device(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            yield batch._replace(
                inputs=self.fabric.to_device(batch.inputs),
                targets=self.fabric.to_device(batch.targets),
            )

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks.values():
            getattr(callback, hook)(self, *arguments)


def _groups(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Consecutive groups of micro-batches; the last one of an epoch may be smaller."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
