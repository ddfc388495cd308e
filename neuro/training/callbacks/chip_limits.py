"""Check during training whether the network fits the chip: rounding, clipping and thresholds.

Logged as `chip/<layer>/<what>`, with a warning when a limit is exceeded for the first time. The
scaling is that of a deployment (`ops/fixed_point.py`), so that values agree with its report.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Interval
from torch import Tensor

from neuro.models.capabilities import Deployable
from neuro.models.graph import InputNode, LayerGraph, NeuronNode, SynapseNode
from neuro.ops.fixed_point import FixedPoint, clipped_weights, layer_scale, weight_integers
from neuro.training.callbacks.base import Callback, TrainerView

log = logging.getLogger(__name__)


class ChipLimits(Callback):
    """Checks the layer graph against the chip's integers every `every_steps` updates.

    - `weight_bits`, `input_bits`: widths on the chip; None are the model's own, else 8 and 6
    - `error_limit`: warn when rounding changes a layer's weights by more than this fraction
    - `threshold_steps`: warn when a threshold is fewer weight steps than this, too coarse a scale
    """

    main_process_only = True
    requires = (Deployable,)

    def __init__(
        self,
        every_steps: Annotated[int, Gt(0)] = 10,
        weight_bits: Annotated[int, Interval(ge=2, le=8)] | None = None,
        input_bits: Annotated[int, Interval(ge=3, le=12)] | None = None,
        error_limit: Annotated[float, Interval(ge=0, le=1)] = 0.02,
        threshold_steps: Annotated[int, Ge(1)] = 16,
    ):
        self.every_steps = every_steps
        self.weight_bits = weight_bits
        self.input_bits = input_bits
        self.error_limit = error_limit
        self.threshold_steps = threshold_steps
        self._warned: list[str] = []

    def on_step(self, trainer: TrainerView, metrics: Mapping[str, float]) -> None:
        step = trainer.progress.step
        if step != 1 and step % self.every_steps:
            return
        model = trainer.model
        assert isinstance(model, Deployable)
        own = model.fixed_point or FixedPoint()
        fixed = FixedPoint(self.weight_bits or own.weight_bits, self.input_bits or own.input_bits)
        found = dict(_measure(model.layer_graph(), fixed))
        trainer.log({f"chip/{name}": value for name, value in found.items()})
        for name, problem in self._problems(found):
            if name not in self._warned:
                self._warned.append(name)
                log.warning("update %d: %s", step, problem)

    def _problems(self, found: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """Problems, each with a name under which it is reported once."""
        for name, value in found.items():
            layer, _, what = name.rpartition("/")
            match what:
                case "rounding_error" if value > self.error_limit:
                    yield name, f"{layer}: rounding to the chip changes its weights by {value:.1%}."
                case "clipped" if value > 0:
                    yield name, f"{layer}: {value:.2%} of its weights are out of the chip's range."
                case "threshold" if value < self.threshold_steps:
                    yield (
                        name,
                        f"{layer}: its threshold is only {value:.0f} steps of its weights; keep "
                        "weights smaller (callbacks.weight_bounds) or thresholds larger.",
                    )

    def state_dict(self) -> dict[str, list[str]]:
        return {"warned": self._warned}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        self._warned = list(state["warned"])


def _measure(graph: LayerGraph, fixed: FixedPoint) -> Iterator[tuple[str, float]]:
    """`<layer>/threshold` in weight steps, `rounding_error` and `clipped` as fractions."""
    for name, node in graph.nodes.items():
        if not isinstance(node, NeuronNode):
            continue
        sources = [source for port in node.ports for source in graph.sources(name, port)]
        synapses = [graph.nodes[source] for source in sources]
        weights = [
            torch.from_numpy(s.weight).double() for s in synapses if isinstance(s, SynapseNode)
        ]
        origins = [graph.nodes[graph.sources(s)[0]] for s in sources]
        real = any(isinstance(n, InputNode) and n.coding == "real" for n in origins)
        unit = fixed.input_unit if real else 1
        threshold = torch.tensor(node.threshold)
        scale = layer_scale(weights, threshold, bits=fixed.weight_bits, unit=unit)
        yield f"{name}/threshold", float(scale.vth) / unit
        rounded = [weight_integers(w, scale.step, fixed.weight_bits) * scale.step for w in weights]
        yield f"{name}/rounding_error", _relative(rounded, weights)
        clipped = [clipped_weights(w, scale.step, fixed.weight_bits) for w in weights]
        yield f"{name}/clipped", sum(clipped) / sum(w.numel() for w in weights)


def _relative(rounded: list[Tensor], weights: list[Tensor]) -> float:
    """Norm of the rounding error over the norm of the weights."""
    norm = torch.cat([w.flatten() for w in weights]).norm()
    difference = torch.cat([(r - w).flatten() for r, w in zip(rounded, weights, strict=True)])
    return float(difference.norm() / norm) if norm > 0 else 0.0
