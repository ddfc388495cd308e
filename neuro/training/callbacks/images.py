"""Images that a model makes, beside what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt

from neuro.errors import nearest
from neuro.runs.report import Report
from neuro.training.callbacks.base import Callback, Setup, TrainerView
from neuro.training.callbacks.plotting import due_after_epoch, write_plot


class Images(Callback):
    """Draws the first test sample of each of `tasks`, as `plots/images.png`.

    By default these are the tasks that the phase tests, each sample once. After the last phase, and
    every `every_epochs` epochs. Contours are drawn at `threshold`; `pixel_nm` gives the axes their
    unit. Of images with several channels, the first is drawn.
    """

    main_process_only = True

    def __init__(
        self,
        tasks: tuple[str, ...] = (),
        threshold: float | None = 0.225,
        pixel_nm: Annotated[float, Gt(0)] | None = None,
        every_epochs: Annotated[int, Gt(0)] | None = None,
    ):
        self.tasks = tasks
        self.threshold = threshold
        self.pixel_nm = pixel_nm
        self.every_epochs = every_epochs

    def check(self, setup: Setup) -> Iterator[str]:
        if unknown := [task for task in self.tasks if task not in setup.data.tasks]:
            known = setup.data.tasks
            yield (
                f"tasks: the data have no {unknown[0]!r}; there are {', '.join(known)}."
                + nearest(unknown[0], known)
            )
            return
        for task in self.tasks or setup.plan[-1].evaluate:
            spec = setup.data.spec(task)
            if spec.targets.kind != "image" or len(spec.inputs.shape) != 3:
                yield (
                    f"tasks: '{task}' has inputs {list(spec.inputs.shape)} and targets of the kind "
                    f"{spec.targets.kind}; images of images are drawn. Leave images out of "
                    "callbacks."
                )

    def on_epoch_end(self, trainer: TrainerView) -> None:
        if due_after_epoch(trainer, self.every_epochs):
            self._draw(trainer)

    def on_fit_end(self, trainer: TrainerView, report: Report) -> None:
        self._draw(trainer)

    @torch.no_grad()
    def _draw(self, trainer: TrainerView) -> None:
        from neuro.analysis.plots import images as plots

        was_training = trainer.model.training
        trainer.model.eval()
        samples: list[plots.Sample] = []
        for task in self.tasks or trainer.phase.evaluate:
            loader = trainer.data.loader(task, "test", batch_size=1)
            batch = next(iter(loader.batches()))
            if any(np.array_equal(batch.inputs[0, 0, 0].numpy(), s.inputs) for s in samples):
                continue  # of a task that has another's samples, too
            output = trainer.model(batch.sequence().to(trainer.device), dt_ms=batch.dt_ms)
            pictures = (batch.inputs[0, 0, 0], batch.targets[0, 0], output.values[0, 0].cpu())
            samples.append(plots.Sample(task, *(image.float().numpy() for image in pictures)))
        trainer.model.train(was_training)
        figure = plots.predictions(
            samples,
            threshold=self.threshold,
            pixel_nm=self.pixel_nm,
            title=f"The first test sample of each task, after update {trainer.progress.step}",
        )
        write_plot(trainer, "images", figure)
