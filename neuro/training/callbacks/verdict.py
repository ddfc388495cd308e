"""Judge a run by criteria: norms of gradients, skipped updates, falling loss, improving metrics.

The criteria are those by which guides call training stable. They are part of report.json, and a run
that does not meet them all ends with exit code 6 (`neuro/experiment/fit.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from neuro.errors import nearest
from neuro.runs.report import Criterion
from neuro.training.callbacks.base import Callback, Setup, TrainerView

#: fraction of the training losses of a phase whose mean is compared, at its start and at its end
ENDS = 0.2


class Verdict(Callback):
    """Criteria of a run; None disables a criterion.

    - `max_norm`: the norm of every gradient, before clipping, is below it. Skipped updates do not
      count
    - `max_skipped`: largest fraction of updates that are skipped because they are not finite
    - `max_loss`: the training loss at the end of the run is below it
    - `loss_falls`: in each phase, the mean of the last fifth of the training losses of this process
      is below that of the first fifth
    - `improves`: validated metrics that are better at the end of each phase than at its start,
      where they are measured before the first update
    """

    def __init__(
        self,
        max_norm: Annotated[float, Gt(0)] | None = 10.0,
        max_skipped: Annotated[float, Interval(ge=0, lt=1)] | None = 0.02,
        max_loss: float | None = None,
        loss_falls: bool = True,
        improves: tuple[str, ...] = (),
    ):
        self.max_norm = max_norm
        self.max_skipped = max_skipped
        self.max_loss = max_loss
        self.loss_falls = loss_falls
        self.improves = improves
        self._norm: Tensor | None = None  # largest finite one
        self._losses: dict[str, list[Tensor]] = {}  # by phase, of every update
        self._metrics: dict[str, dict[str, list[float]]] = {}  # by phase: at its start and end

    def check(self, setup: Setup) -> Iterator[str]:
        settings = setup.settings
        measured = settings.max_skipped is not None or settings.clip_norm is not None
        if self.max_norm is not None and not measured:
            yield (
                "max_norm: the norm is not computed with trainer.max_skipped=null; set that or "
                "trainer.clip_norm to a number."
            )
        allowed = [name for name in setup.validated if name.startswith("val/")]
        for name in self.improves:
            if name not in allowed:
                yield (
                    f"improves: no metric '{name}' is validated in every phase. There are "
                    f"{', '.join(allowed)}.{nearest(name, allowed)}"
                )

    def on_phase_start(self, trainer: TrainerView) -> None:
        if self.improves:
            self._measured(trainer, trainer.validate())

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        if trainer.grad_norm is not None:
            norm = trainer.grad_norm.detach().nan_to_num(0.0, 0.0)  # of a skipped update
            self._norm = norm if self._norm is None else torch.maximum(self._norm, norm)
        if self.loss_falls or self.max_loss is not None:
            self._losses.setdefault(trainer.phase.name, []).append(trainer.loss.detach())

    def on_validation(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        self._measured(trainer, metrics)

    def _measured(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        """Keep the first and the latest values of the phase."""
        found = self._metrics.setdefault(trainer.phase.name, {})
        for name in self.improves:
            if name in metrics:
                found[name] = [*found.get(name, [])[:1], metrics[name]]

    def criteria(self, trainer: TrainerView) -> Iterable[Criterion]:
        if self.max_norm is not None and self._norm is not None:
            norm = float(self._norm)
            yield Criterion.of("largest norm of a gradient", norm, "<", self.max_norm)
        if self.max_skipped is not None:
            progress = trainer.progress
            skipped = progress.skipped / max(progress.step, 1)
            yield Criterion.of("fraction of skipped updates", skipped, "<=", self.max_skipped)
        if self.max_loss is not None and self._losses:
            last = _ends(list(self._losses.values())[-1])[1]
            yield Criterion.of("training loss at the end", last, "<", self.max_loss)
        if self.loss_falls:
            for phase, losses in self._losses.items():
                first, last = _ends(losses)
                name = f"{phase}: training loss, from start to end"
                yield Criterion.of(name, last, "<", first)
        for phase, metrics in self._metrics.items():
            for name, values in metrics.items():
                better = "<" if trainer.settings.direction_of(name) == "min" else ">"
                text = f"{phase}: {name}, from start to end"
                yield Criterion.of(text, values[-1], better, values[0])

    def state_dict(self) -> dict[str, Any]:
        losses = {phase: torch.stack(found) for phase, found in self._losses.items()}
        return {"norm": self._norm, "losses": losses, "metrics": self._metrics}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norm, self._metrics = state["norm"], state["metrics"]
        self._losses = {phase: list(found.unbind()) for phase, found in state["losses"].items()}

    def on_fit_start(self, trainer: TrainerView) -> None:
        if self._norm is not None:
            self._norm = self._norm.to(trainer.device)


def _ends(losses: Sequence[Tensor]) -> tuple[float, float]:
    """Means of the first and of the last fifth of the losses of a phase, at least of one each.

    Those that are not finite belong to skipped updates.
    """
    values = torch.stack([loss.float().cpu() for loss in losses])
    values = values[values.isfinite()]
    count = max(1, int(ENDS * len(values)))
    return float(values[:count].mean()), float(values[-count:].mean())
