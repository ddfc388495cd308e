"""Statistics of gates, weights and activity at intervals, on a few samples, with warnings.

Logged as `diagnostics/<layer>/<what>`, with a warning the first time that something is wrong:
gates stuck open or shut, weights out of range, a large error at 8 bits, silent or saturated layers.
Activity is spikes per step, or the mean magnitude of states.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from neuro.models.base import CoreModel
from neuro.models.capabilities import Connected, Deployable, Layered, Observable, Spiking
from neuro.models.running import mean_activity, run
from neuro.ops.fixed_point import quantization_error
from neuro.training.callbacks.base import Callback, TrainerView
from neuro.training.callbacks.plotting import first_samples

log = logging.getLogger(__name__)

Fraction = Annotated[float, Interval(ge=0, le=1)]


class Diagnostics(Callback):
    """Checks gates, weights and firing every `every_steps` updates on `samples` samples.

    - `gate_threshold`: a gate is stuck when the moving average of its gamma (`gate_momentum`)
      is above this or below 1 minus this; a layer is when most of its gates are
    - `weight_limit`: largest weight that a healthy layer has, the readout included
    - `bits`: width at which the quantisation error is taken; `error_limit` warns above it. These
      warnings are for networks that a chip can have, spiking or superconducting ones
    - `silent_below`: mean activity of a dead layer or node
    - `saturated_above`: that of a runaway one, as a share of the largest that it can have
    """

    def __init__(
        self,
        every_steps: Annotated[int, Gt(0)] = 10,
        samples: Annotated[int, Gt(0)] = 16,
        gate_threshold: Annotated[float, Interval(gt=0.5, lt=1)] = 0.95,
        gate_momentum: Annotated[float, Interval(ge=0, lt=1)] = 0.9,
        weight_limit: Annotated[float, Gt(0)] = 1.0,
        bits: Annotated[int, Interval(ge=2, le=16)] = 8,
        error_limit: Fraction = 0.02,
        silent_below: Fraction = 0.001,
        saturated_above: Fraction = 0.9,
    ):
        self.every_steps = every_steps
        self.samples = samples
        self.gate_threshold = gate_threshold
        self.gate_momentum = gate_momentum
        self.weight_limit = weight_limit
        self.bits = bits
        self.error_limit = error_limit
        self.silent_below = silent_below
        self.saturated_above = saturated_above
        self._gates: dict[str, Tensor] = {}
        self._warned: list[str] = []

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        step = trainer.progress.step
        if step == 1 or step % self.every_steps == 0:
            found = dict(self._measure(trainer))
            trainer.log({f"diagnostics/{k}": v for k, v in found.items()})
            outputs = next(reversed(_records(trainer.model)), None)
            physical = isinstance(trainer.model, (Deployable, Connected))
            for subject, problem in self._problems(found, outputs, physical):
                if subject not in self._warned:
                    self._warned.append(subject)
                    log.warning("update %d: %s", step, problem)

    @torch.no_grad()
    def _measure(self, trainer: TrainerView) -> Iterator[tuple[str, float]]:
        model = trainer.model
        if isinstance(model, Observable):
            yield from self._gate_statistics(model.statistics())
        connected = model.connections() if isinstance(model, Connected) else ()
        for name, weight in model.named_parameters():
            is_weight = name.startswith("layers.") or (name.endswith("weight") and not connected)
            if is_weight and weight.ndim >= 2:
                short = name.removeprefix("layers.").removesuffix(".weight").replace(".", "/")
                yield f"{short}/weight_max", float(weight.abs().amax())
                yield f"{short}/quantisation_error", quantization_error(weight, self.bits)
        for connection in connected:
            name = f"{connection.source}_to_{connection.target}"
            yield f"{name}/weight_max", float(connection.weight.abs().amax())
            yield f"{name}/quantisation_error", quantization_error(connection.weight, self.bits)
        limits = model.activity_limits() if isinstance(model, Layered) else {}
        firing = model.thresholds if isinstance(model, Spiking) else {}
        for name, activity in self._activity(trainer).items():
            yield f"{name}/{'rate' if name in firing else 'activity'}", float(activity.mean())
            yield f"{name}/silent", float((activity < self.silent_below).float().mean())
            if name in limits:
                saturated = activity > self.saturated_above * limits[name]
                yield f"{name}/saturated", float(saturated.float().mean())

    def _gate_statistics(self, statistics: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
        for name, value in statistics.items():
            if not name.endswith("/gamma"):
                yield name, float(value.mean())
                continue
            before = self._gates.get(name, torch.full_like(value, 0.5)).to(value.device)
            average = before.lerp(value, 1 - self.gate_momentum)
            self._gates[name] = average
            stuck = (average > self.gate_threshold) | (average < 1 - self.gate_threshold)
            yield name, float(value.mean())
            yield f"{name}_open", float((value > 0.5).float().mean())
            yield f"{name}_stuck", float(stuck.float().mean())

    def _activity(self, trainer: TrainerView) -> dict[str, Tensor]:
        """Mean activity of every unit on a few validation samples, `[...]` per layer."""
        records = _records(trainer.model)
        if not records:
            return {}
        batch = first_samples(trainer, "val", self.samples)
        found = run(trainer.model, batch, record=list(records.values())).records
        return {n: mean_activity(found[record], batch.lengths) for n, record in records.items()}

    def _problems(
        self, found: Mapping[str, float], outputs: str | None, physical: bool
    ) -> Iterator[tuple[str, str]]:
        """Problems, each with a name under which it is reported once.

        `physical`: the weights are those of a chip or of connections between devices.
        """
        allowed = {outputs: 0.0} if outputs else {}  # without a node a class has no score
        for name, value in found.items():
            layer, _, what = name.rpartition("/")
            match what:
                case "gamma_stuck" if value > 0.5:
                    yield name, f"{layer}: {value:.0%} of the gates are stuck open or shut."
                case "weight_max" if physical and value > self.weight_limit:
                    yield (
                        name,
                        f"{layer}: weights reach {value:.2f}, beyond {self.weight_limit:g}; "
                        "callbacks.weight_bounds keeps them in range.",
                    )
                case "quantisation_error" if physical and value > self.error_limit:
                    yield name, f"{layer}: {self.bits} bits change the weights by {value:.1%}."
                case "rate" if value < self.silent_below:
                    yield (
                        f"{layer}/is_silent",
                        f"{layer}: silent ({value:.4f} spikes per step); lower its threshold.",
                    )
                case "silent" if f"{layer}/activity" in found and value > allowed.get(layer, 0.5):
                    yield (
                        name,
                        f"{layer}: {value:.0%} of the nodes are dead (mean state below "
                        f"{self.silent_below:g}) and may not learn; a larger phi_offset, larger "
                        "weights into it or loss=[...,get_off_the_ground_loss] wake them.",
                    )
                case "saturated" if f"{layer}/activity" in found and value > 0.5:
                    yield (
                        name,
                        f"{layer}: {value:.0%} of the nodes are saturated (mean state above "
                        f"{self.saturated_above:.0%} of what they can hold); lower its rate of "
                        "charging or the weights into it.",
                    )
                case "rate" if value > self.saturated_above:
                    yield (
                        f"{layer}/is_saturated",
                        f"{layer}: saturated ({value:.2f} spikes per step); raise its threshold.",
                    )

    def state_dict(self) -> dict[str, Any]:
        return {"gates": self._gates, "warned": self._warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._gates = state["gates"]
        self._warned = state["warned"]


def _records(model: CoreModel) -> dict[str, str]:
    return model.activity_records() if isinstance(model, Layered) else {}
