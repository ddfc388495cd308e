"""A full training step of the default LT-Gate against the same network stepped frame by frame.

The baseline is what a per-step framework does: for every frame it calls every layer (convolutions
included, also of frames that do not change), integrates the neurons with plain torch operations,
and lets autograd keep the graph (surrogate gradients) or accumulates traces and products (local
rule). Same weights, same batch, same arithmetic; the losses agree.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from benchmarks.harness import Comparison, compare, print_table
from neuro.data.base import Batch, InputSpec, TargetSpec, TaskSpec
from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.rules.ltgate import BRANCHES, GateVariance, Hebbian
from neuro.learning.rules.readout import Discriminant
from neuro.learning.step import TrainStep
from neuro.models.spiking_cnn import SpikingCNN
from neuro.ops.dual_lif import dual_lif_reference

FRAMES = 200
RATE = 0.2  # as in conf/callbacks/calibration.yaml
BATCH_SIZES = (8, 64)  # overhead counts in small batches, arithmetic in large ones


def _batch(samples: int) -> tuple[TaskSpec, Batch]:
    generator = torch.Generator().manual_seed(0)
    spec = TaskSpec(
        "fast",
        InputSpec((1, 8, 8)),
        TargetSpec("class", classes=10),
        ((FRAMES, 1.0),),
        tuple(range(5)),
    )
    images = torch.rand(samples, 1, 1, 8, 8, generator=generator)
    labels = torch.randint(5, (samples,), generator=generator)
    return spec, Batch(images, labels, 1.0, FRAMES)


@torch.no_grad()
def _calibrate(model: SpikingCNN, batch: Batch) -> None:
    """A rate falls about as the threshold rises; a layer disturbs those above it."""
    records = {name: f"{name}/spikes" for name in model.thresholds}
    for _ in range(8):
        output = model(batch.sequence(), dt_ms=batch.dt_ms, record=tuple(records.values()))
        for name, threshold in model.thresholds.items():
            threshold *= output.records[records[name]].mean() / RATE


def _stepped_dual_lif(fast, slow, state, **options):
    """Plain torch operations, one frame at a time."""
    for trace in ("rate", "spikes", "membranes"):
        del options[f"record_{trace}"]
    return dual_lif_reference(fast, slow, state, **options)


def _no_events(*_: object) -> None:
    """Convolutions and matrix products, as torch has them."""


def _surrogate(samples: int) -> tuple[Callable[[], object], Callable[[], object]]:
    spec, batch = _batch(samples)
    torch.manual_seed(0)
    model = SpikingCNN(spec, DualTimescaleNeuron())
    _calibrate(model, batch)
    step = TrainStep(model, Objective({"cross_entropy": CrossEntropy()}))

    def fused() -> None:
        step(batch).total.backward()

    def stepped() -> None:
        state, values = None, []
        for frame in batch.sequence().unbind(1):
            output = model(frame[:, None], state, dt_ms=batch.dt_ms)
            state = output.state
            values.append(output.values)
        F.cross_entropy(torch.cat(values, 1).mean(1), batch.targets).backward()

    return _unfused(stepped), fused


def _local(samples: int) -> tuple[Callable[[], object], Callable[[], object]]:
    spec, batch = _batch(samples)
    torch.manual_seed(0)
    model = SpikingCNN(spec, DualTimescaleNeuron(), readout="discriminant")
    _calibrate(model, batch)
    terms = {"hebbian": Hebbian(), "gate": GateVariance(), "discriminant": Discriminant()}
    step = TrainStep(model, Objective(terms))

    def fused() -> None:
        step(batch).total.backward()

    records = [f"{n}/{t}" for n in model.layers for t in ("inputs", "fast_spikes", "slow_spikes")]

    @torch.no_grad()
    def stepped() -> None:
        """The Hebbian products alone: the baseline does less than the rule needs."""
        state = None
        traces: dict[str, Tensor] = {}
        products: dict[tuple[str, str], Tensor] = {}
        for frame in batch.sequence().unbind(1):
            output = model(frame[:, None], state, dt_ms=batch.dt_ms, record=records)
            state = output.state
            for name, layer in model.layers.items():
                inputs = output.records[f"{name}/inputs"][0]
                traces[name] = 0.8 * traces[name] + inputs if name in traces else inputs
                for branch in BRANCHES:
                    post = output.records[f"{name}/{branch}_spikes"][0]
                    product = _product(getattr(layer, branch), traces[name], post)
                    key = name, branch
                    products[key] = products[key] + product if key in products else product

    return _unfused(stepped), fused


def _product(synapse: nn.Module, pre: Tensor, post: Tensor) -> Tensor:
    """sum over samples and places of post x pre^T."""
    if isinstance(synapse, nn.Conv2d):
        shape, stride = synapse.weight.shape, synapse.stride
        return conv2d_weight(pre, shape, post, stride=stride, padding=synapse.padding)
    return post.T @ pre.flatten(1)


def _unfused(function: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with (
            patch("neuro.layers.dual_timescale.dual_lif", _stepped_dual_lif),
            patch("neuro.layers.synapse.pack_events", _no_events),
            patch("neuro.models.spiking.pack_events", _no_events),
        ):
            function()

    return run


def measure(rounds: int = 3) -> list[Comparison]:
    """Median seconds of a training step, frame by frame and fused."""
    return [
        compare(f"{name}, {samples} samples", *make(samples), rounds=rounds)
        for samples in BATCH_SIZES
        for name, make in (("surrogate gradients", _surrogate), ("local rule", _local))
    ]


def main() -> None:
    print_table(
        f"Training step of LT-Gate, {FRAMES} frames",
        measure(),
        baseline="by frame",
        candidate="fused",
    )


if __name__ == "__main__":
    main()
