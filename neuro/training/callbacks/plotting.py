"""Helpers of callbacks that plot: when a plot is due, samples to plot, and where it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from neuro.data.base import Batch, Split
from neuro.training.callbacks.base import TrainerView

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def due_after_epoch(trainer: TrainerView, every_epochs: int | None) -> bool:
    """True if a plot is due after the epoch that ends now.

    Not after the last epoch of the run, because a plot of the final weights follows.
    """
    epoch = trainer.progress.epoch + 1
    last = trainer.phase is trainer.plan[-1] and trainer.phase.over(
        epoch, trainer.progress.phase_step
    )
    return every_epochs is not None and epoch % every_epochs == 0 and not last


def first_samples(trainer: TrainerView, split: Split, count: int) -> Batch:
    """The first samples of the phase's first task, at most `count`, on the model's device."""
    loader = trainer.data.loader(trainer.phase.tasks[0], split, batch_size=count)
    batch = next(iter(loader.batches()))
    return batch._replace(inputs=batch.inputs.to(trainer.device))


def write_plot(trainer: TrainerView, name: str, figure: Figure) -> None:
    """Save a figure as `<run>/plots/<name>.png`, and pass it to the trackers."""
    from neuro.analysis.plots import style

    path = style.save(figure, trainer.run_dir / "plots" / f"{name}.png")
    trainer.log_artifact(path, f"plots/{name}")
