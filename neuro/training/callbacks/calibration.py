"""Threshold calibration: every layer starts training with about the same spike rate.

Without it deep layers fall silent or saturate, and both local rules and surrogate gradients vanish.
All layers are measured with a group of samples, the same ones however they are divided into batches
and micro-batches; a layer whose rate is off gets its threshold scaled by rate/target, which is
exact for a linear response. A layer below that changes disturbs those above, hence the repetitions.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from neuro.config.types import Fraction
from neuro.data.base import Batch
from neuro.models.capabilities import Spiking
from neuro.models.running import mean_activity, run
from neuro.runtime.distributed import batch_means
from neuro.training.callbacks.base import Callback, TrainerView

log = logging.getLogger(__name__)


class ThresholdCalibration(Callback):
    """Sets each layer's threshold before the first phase, on the phase's training data.

    It is done with the first group of `samples` samples for which every layer's mean spikes per
    neuron and step are within `tolerance` of `target`, after at most `rounds` passes over the first
    `batches` such groups. Thresholds stay within [`minimum`, `maximum`]. A resumed run, and one
    that starts from other weights, keeps the thresholds that came with them. With `all_timings`,
    frames that are held are shown with the length and time step of every task of the curriculum,
    and the rate is the mean over them: a network calibrated at 1 ms alone may fall silent at 20 ms.
    """

    requires = (Spiking,)
    optional = True

    def __init__(
        self,
        target: Fraction = 0.2,
        tolerance: Fraction = 0.02,
        samples: Annotated[int, Gt(0)] = 64,
        batches: Annotated[int, Gt(0)] = 10,
        rounds: Annotated[int, Gt(0)] = 3,
        minimum: Annotated[float, Gt(0)] = 0.05,
        maximum: Annotated[float, Gt(0)] = 2.0,
        all_timings: bool = True,
    ):
        if minimum >= maximum:
            raise ValueError(f"minimum ({minimum}) must be below maximum ({maximum})")
        self.target = target
        self.tolerance = tolerance
        self.samples = samples
        self.batches = batches
        self.rounds = rounds
        self.minimum = minimum
        self.maximum = maximum
        self.all_timings = all_timings

    def on_phase_start(self, trainer: TrainerView) -> None:
        if trainer.phase.index > 0 or trainer.pretrained:
            return
        assert isinstance(trainer.model, Spiking)
        thresholds = trainer.model.thresholds
        rates = self._calibrate(trainer, thresholds)
        found = {name: float(value) for name, value in thresholds.items()}
        for name, rate in rates.items():
            if abs(rate - self.target) > self.tolerance:
                log.warning(
                    "calibration: layer %s fires in %.3f of all steps at threshold %.3g "
                    "(target %.3f +- %.3f, thresholds within [%g, %g])",
                    name,
                    rate,
                    found[name],
                    self.target,
                    self.tolerance,
                    self.minimum,
                    self.maximum,
                )
        log.info(
            "Calibrated thresholds: %s",
            ", ".join(
                f"{name} {value:.3f} (rate {rates[name]:.2f})" for name, value in found.items()
            ),
        )

    @torch.no_grad()
    def _calibrate(
        self, trainer: TrainerView, thresholds: Mapping[str, Tensor]
    ) -> dict[str, float]:
        rates: dict[str, float] = {}
        for group in self._stream(trainer):
            rates = self._rates(trainer, list(thresholds), group)
            off = [n for n, rate in rates.items() if abs(rate - self.target) > self.tolerance]
            if not off:
                break
            for name in off:
                factor = min(max(rates[name] / self.target, 0.5), 2.0)
                thresholds[name].mul_(factor).clamp_(self.minimum, self.maximum)
        else:  # the last group may have moved some
            rates = self._rates(trainer, list(thresholds), group)
        return rates

    def _rates(
        self, trainer: TrainerView, names: list[str], group: Sequence[Batch]
    ) -> dict[str, float]:
        """Mean spikes per neuron and step of every layer, over samples, timings and processes."""
        count = sum(len(batch.targets) for batch in group)
        rates: Tensor = torch.zeros(len(names), device=trainer.device)
        for batch in group:
            batch = batch.map(lambda tensor: tensor.to(trainer.device))
            shown = self._shown(trainer, batch)
            share = len(batch.targets) / count / len(shown)
            for version in shown:
                wanted = [f"{name}/spikes" for name in names]
                found = run(trainer.model, version, record=wanted).records
                means = [mean_activity(found[name], version.lengths).mean() for name in wanted]
                rates += torch.stack(means).to(rates) * share
        (rates,) = batch_means([rates], count)
        return dict(zip(names, rates.tolist(), strict=True))

    def _shown(self, trainer: TrainerView, batch: Batch) -> list[Batch]:
        """The batch as it is, or held frames with every timing of the curriculum."""
        if batch.frames is None or not self.all_timings:
            return [batch]
        tasks = dict.fromkeys(task for phase in trainer.plan for task in phase.tasks)
        timings = dict.fromkeys(t for task in tasks for t in trainer.data.spec(task).timings)
        return [batch._replace(frames=frames, dt_ms=dt_ms) for frames, dt_ms in timings]

    def _stream(self, trainer: TrainerView) -> Iterator[list[Batch]]:
        """`rounds` passes over the first groups of the phase's data, each as parts of batches."""
        own = math.ceil(self.samples / trainer.world_size)  # of this process
        for _ in range(self.rounds):
            yield from itertools.islice(
                _grouped(trainer.phase.loader.batches(0), own), self.batches
            )


def _grouped(batches: Iterable[Batch], samples: int) -> Iterator[list[Batch]]:
    """Groups of so many samples in the order of the data; the last may have fewer."""
    group: list[Batch] = []
    missing = samples
    for batch in batches:
        begin, size = 0, len(batch.targets)
        while begin < size:
            end = min(begin + missing, size)
            group.append(batch if end - begin == size else batch.rows(slice(begin, end)))
            missing -= end - begin
            begin = end
            if missing == 0:
                yield group
                group, missing = [], samples
    if group:
        yield group
