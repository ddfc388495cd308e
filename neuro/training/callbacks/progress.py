"""Progress output of training.

On a terminal a live line: phase, epoch, loss, metrics, learning rate, samples or tokens per second,
remaining time and memory, with validations and phases printed above it. In a pipe or a log file
plain lines at log intervals and validations, flushed. A long evaluation says how far it is.
Training does not wait for it: a thread reads the trainer's counters and draws the live line.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from annotated_types import Gt

from neuro.analysis.metrics import is_fraction
from neuro.runs.report import Report
from neuro.runtime.memory import peak_memory
from neuro.runtime.output import clock_time, record_printed
from neuro.training.callbacks.base import Callback, Evaluation, TrainerView
from neuro.training.pace import Pace

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text


_BAR_WIDTH = 18
#: metrics in a line; of an objective with more, the line has the main one alone
_MOST_METRICS = 3
#: seconds without a line after which an evaluation prints how far it is
_SILENCE_S = 30.0


class ProgressBar(Callback):
    """One live line on a terminal, plain lines elsewhere; only the main process prints.

    - `refresh_per_s`: updates of the live line per second
    - `memory`: whether to show the memory in use (of the GPU if there is one, else of the process)
    """

    main_process_only = True

    def __init__(self, refresh_per_s: Annotated[float, Gt(0)] = 4.0, memory: bool = True) -> None:
        self.refresh_per_s = refresh_per_s
        self.memory = memory
        self._trainer: TrainerView | None = None
        self._console: Console | None = None
        self._live: Live | None = None
        self._phase: str | None = None
        self._metrics: dict[str, float] = {}
        self._pace: Pace | None = None
        self._evaluation: Evaluation | None = None  # the current one
        self._evaluating_since = 0.0  # the end of its first batch
        self._printed = 0.0  # time of the last line

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._trainer = trainer
        self._phase = None
        self._console = _terminal()
        self._printed = time.monotonic()

    def on_phase_start(self, trainer: TrainerView) -> None:
        self._enter(trainer)

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self._phase != trainer.phase.name:  # the first step after a resume
            self._enter(trainer)
        if not metrics:
            return
        self._metrics.update(metrics)
        line = "  " + "  ".join(self._parts(trainer))
        if self._console is None:
            print(line, flush=True)
        record_printed(line)
        self._printed = time.monotonic()

    def on_evaluation(self, trainer: TrainerView, evaluation: Evaluation) -> None:
        now = time.monotonic()
        if evaluation.done == 1:
            self._evaluating_since = now
        self._evaluation = evaluation if evaluation.done < evaluation.batches else None
        if self._evaluation and self._live is None and now - self._printed > _SILENCE_S:
            self._print("  " + "  ".join(self._evaluation_parts(evaluation)))

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        values = _numbers(metrics, "val/")
        if values:
            self._print(f"  validation after update {trainer.progress.step}: {values}")

    def on_phase_end(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if self._phase != trainer.phase.name:  # resumed after its last update
            self._enter(trainer)
        self.close()
        assert self._pace is not None
        values = _numbers(metrics, "test/")
        self._print(
            f"  {trainer.phase.name} ended after {trainer.progress.phase_step} updates "
            f"({clock_time(self._pace.seconds)})" + (f"; test: {values}" if values else "")
        )
        self._phase = None

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        self.close()

    def close(self) -> None:
        """Remove the live line; can be called at any time, also after an error."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            atexit.unregister(self.close)

    def _enter(self, trainer: TrainerView) -> None:
        """Print the phase's header and start its live line."""
        self.close()
        phase, progress = trainer.phase, trainer.progress
        self._trainer, self._phase, self._metrics = trainer, phase.name, {}
        self._pace = Pace(trainer)
        names = [plan.name for plan in trainer.plan]
        number = f"{names.index(phase.name) + 1}/{len(names)}"
        epochs = f"{phase.epochs} epoch{'s' if phase.epochs != 1 else ''}"
        resumed = f", resumed at update {progress.phase_step}" if progress.phase_step > 1 else ""
        self._print(
            f"Phase {number} {phase.name}: task {phase.task}, {epochs}, "
            f"{phase.total_steps} updates{resumed}"
        )
        if self._console is not None:
            from rich.live import Live

            self._live = Live(
                _Line(self),
                console=self._console,
                refresh_per_second=self.refresh_per_s,
                transient=True,
            )
            self._live.start()
            self._console.show_cursor(True)  # else it stays hidden if the process is killed
            atexit.register(self.close)

    def _print(self, line: str) -> None:
        """Print a line above the live line and to run.log."""
        if self._console is not None:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)
        record_printed(line)
        self._printed = time.monotonic()

    def _evaluation_parts(self, evaluation: Evaluation) -> list[str]:
        """The parts of the line during an evaluation."""
        task, split, done, batches = evaluation
        what = "validation" if split == "val" else split
        parts = [f"{what} of {task}", f"batch {done}/{batches}"]
        if done > 1:
            per_batch = (time.monotonic() - self._evaluating_since) / (done - 1)
            parts.append(f"ETA {clock_time(per_batch * (batches - done))}")
        return parts

    def _parts(self, trainer: TrainerView) -> list[str]:
        """The parts of the line, the most important ones first."""
        phase, progress, metrics = trainer.phase, trainer.progress, self._metrics
        epoch = min(progress.epoch + 1, phase.epochs)
        parts = [
            phase.name,
            f"epoch {epoch}/{phase.epochs}",
            f"update {progress.phase_step}/{phase.total_steps}",
        ]
        if "train/loss" in metrics:
            parts.append(f"loss {metrics['train/loss']:.4g}")
        names = list(trainer.objective.metrics)
        for name in names if len(names) <= _MOST_METRICS else names[:1]:
            if f"train/{name}" in metrics:
                parts.append(_shown(name, metrics[f"train/{name}"]))
        if "train/lr" in metrics:
            parts.append(f"lr {metrics['train/lr']:.2g}")
        assert self._pace is not None
        tokens_per_s = metrics.get("train/tokens_per_s") or self._pace.tokens_per_s
        samples_per_s = metrics.get("train/samples_per_s") or self._pace.samples_per_s
        if tokens_per_s:
            parts.append(f"{tokens_per_s:.0f} tokens/s")
        elif samples_per_s:
            parts.append(f"{samples_per_s:.0f} samples/s")
        left, later = self._pace.phase_left_s, self._pace.later_s
        if left is not None:
            total = f" (all phases {clock_time(left + later)})" if later else ""
            parts.append(f"ETA {clock_time(left)}{total}")
        if self.memory:
            parts.append(_memory())
        return parts


class _Line:
    """The live line, which rich renders at each refresh."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar

    def __rich__(self) -> Text:
        from rich.text import Text

        trainer, evaluation = self._bar._trainer, self._bar._evaluation
        assert trainer is not None
        if evaluation is None:
            done = min(trainer.progress.phase_step / max(trainer.phase.total_steps, 1), 1.0)
            name, *rest = self._bar._parts(trainer)
        else:
            done = evaluation.done / evaluation.batches
            name, *rest = self._bar._evaluation_parts(evaluation)
        filled = round(done * _BAR_WIDTH)
        line = Text(no_wrap=True, overflow="ellipsis")
        line.append(name, style="bold")
        line.append("  " + "━" * filled, style="cyan")
        line.append("━" * (_BAR_WIDTH - filled), style="bright_black")
        line.append(f" {100 * done:3.0f} %  ")
        line.append("  ".join(rest))
        return line


def _terminal() -> Console | None:
    """A console if standard output is a terminal that can redraw a line."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    console = Console(file=sys.stdout)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def _numbers(metrics: Mapping[str, float], prefix: str) -> str:
    """`fast/accuracy 97.1 %, fast/loss 0.12`: metrics below a prefix, fractions in percent."""
    shown = []
    for name, value in metrics.items():
        if name.startswith(prefix):
            shown.append(_shown(name[len(prefix) :], value))
    return ", ".join(shown)


def _shown(name: str, value: float) -> str:
    return f"{name} {100 * value:.1f} %" if is_fraction(name) else f"{name} {value:.4g}"


def _memory() -> str:
    """Memory in use: reserved memory of the GPU if one is used, else resident memory.

    Resident memory is that of this process and its children; the peak is that of this process,
    including validations and plots.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return f"GPU {_size(torch.cuda.memory_reserved())}"
    import psutil

    own = psutil.Process()
    now = own.memory_info().rss
    for child in own.children(recursive=True):
        with suppress(psutil.Error):  # the child has ended
            now += child.memory_info().rss
    peak = max(peak_memory(), now)
    return _size(now) if peak < 1.1 * now else f"{_size(now)} (peak {_size(peak)})"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
