"""Log the norm of the gradient and the loss at intervals, with a warning if the norm is large."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor

from neuro.training.callbacks.base import Callback, Setup, TrainerView

log = logging.getLogger(__name__)


class GradientHealth(Callback):
    """Logs the mean and the largest norm of the gradient over the last `every_steps` updates.

    Norms are those of the whole gradient, before clipping and without the loss scale; skipped
    updates do not count. Warns where the largest one exceeds `warn_above` (None: never). Logged
    as `gradients/norm`, `gradients/norm_max`, `gradients/loss` (the loss of the last update) and
    `gradients/skipped` (updates skipped so far).
    """

    main_process_only = True  # the gradient is the same on all processes

    def __init__(
        self,
        every_steps: Annotated[int, Gt(0)] = 50,
        warn_above: Annotated[float, Gt(0)] | None = 10.0,
    ):
        self.every_steps = every_steps
        self.warn_above = warn_above
        self._norms: list[Tensor] = []

    def check(self, setup: Setup) -> Iterator[str]:
        settings = setup.settings
        if settings.max_skipped is None and settings.clip_norm is None:
            yield (
                "every_steps: the norm is not computed with trainer.max_skipped=null; set that or "
                "trainer.clip_norm to a number."
            )

    def notes(self, setup: Setup) -> Iterator[str]:
        terms = setup.objective.named_terms()
        if len(setup.objective.statistical_terms(setup.model)) == len(terms):
            yield f"has nothing to measure: loss=[{','.join(terms)}] has no gradient."

    def on_fit_start(self, trainer: TrainerView) -> None:
        self._norms = [norm.to(trainer.device) for norm in self._norms]

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        progress = trainer.progress
        if trainer.grad_norm is not None and progress.skipped_in_a_row == 0:
            self._norms.append(trainer.grad_norm.detach())
        if progress.step % self.every_steps == 0 and self._norms:
            norms = torch.stack(self._norms).float().cpu()
            if trainer.settings.max_skipped is not None:  # updates that were skipped on the device
                norms = norms[norms.isfinite()]
            if len(norms):
                self._log(trainer, norms)
            self._norms = []

    def _log(self, trainer: TrainerView, norms: Tensor) -> None:
        step, skipped = trainer.progress.step, trainer.progress.skipped
        mean, largest = float(norms.mean()), float(norms.max())
        loss = float(trainer.loss)
        found = {"norm": mean, "norm_max": largest, "loss": loss, "skipped": float(skipped)}
        trainer.log({f"gradients/{name}": value for name, value in found.items()})
        log.info(
            "update %d: loss %.4g, gradient norm %.3g (largest %.3g), %d updates skipped",
            step,
            loss,
            mean,
            largest,
            skipped,
        )
        if self.warn_above is not None and largest > self.warn_above:
            log.warning(
                "update %d: the gradient's norm reached %.3g, above %g; "
                "trainer.clip_norm=1 or a lower optimizer.lr keeps updates small.",
                step,
                largest,
                self.warn_above,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"norms": self._norms}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms = state["norms"]
