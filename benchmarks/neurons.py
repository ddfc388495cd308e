"""Recurrent and adaptive neurons against step-by-step cells of others, forward and backward.

python -m benchmarks.neurons
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import snntorch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import Comparison, compare, print_table
from benchmarks.kernels import SHAPES
from neuro.ops import Dynamics, lif, neurons
from neuro.ops.delays import (
    delayed_currents,
    delayed_currents_reference,
    delayed_inputs,
    delayed_inputs_reference,
)
from neuro.ops.surrogate import Surrogate, spike

RECURRENT = ((250, 32, 256), (100, 64, 512))  # T, B, N
DELAYED = ((100, 64, 140, 256, 25), (250, 32, 256, 256, 60))  # T, B, C, N, longest delay
DECAY, DECAY_SLOW = math.exp(-1 / 20), math.exp(-1 / 150)  # dt 1 ms, tau 20 and 150 ms


def plain(current: Tensor, weights: Tensor) -> Tensor:
    """Spikes of recurrent LIF neurons, one indexed step after the other."""
    v = s = torch.zeros_like(current[0])
    spikes = []
    for t in range(len(current)):
        v = DECAY * v + current[t] + F.linear(s, weights)
        s = spike(v - 1.0, Surrogate())
        v = v - s.detach()
        spikes.append(s)
    return torch.stack(spikes)


def snntorch_cell(current: Tensor, cell: nn.Module) -> Tensor:
    s, v = cell.init_rleaky()  # type: ignore[operator]
    spikes = []
    for step in current:
        s, v = cell(step, s, v)
        spikes.append(s)
    return torch.stack(spikes)


def drive(shape: tuple[int, int, int], scale: float) -> tuple[Tensor, Tensor]:
    """A current, at which about a tenth of the neurons fires, and a gradient of the spikes."""
    generator = torch.Generator().manual_seed(0)
    current = scale * torch.randn(shape, generator=generator) + 0.4 * scale
    return current.requires_grad_(), torch.randn(shape, generator=generator)


def recurrent(other: str, shape: tuple[int, int, int]) -> Comparison:
    (current, grad), units = drive(shape, 0.25), shape[2]
    cell = snntorch.RLeaky(
        beta=DECAY,
        linear_features=units,
        spike_grad=snntorch.surrogate.fast_sigmoid(slope=10),
        reset_mechanism="subtract",
    )
    cell.recurrent.bias = None
    weights = cell.recurrent.weight
    dynamics = Dynamics.leaky(DECAY)

    def fused() -> None:
        out = neurons(current, dynamics=dynamics, threshold=1.0, recurrent_MN=weights)
        torch.autograd.grad(out.spikes_TBN, [current, weights], grad)

    def steps() -> None:
        spikes = snntorch_cell(current, cell) if other == "snntorch" else plain(current, weights)
        torch.autograd.grad(spikes, [current, weights], grad)

    return compare(f"{other}  T, B, N = {shape}", steps, fused, rounds=5)


def adaptive(shape: tuple[int, int, int]) -> Comparison:
    (current, grad), units = drive(shape, 0.25), shape[2]
    dynamics = Dynamics.adaptive(
        torch.full((units,), DECAY, requires_grad=True),
        torch.full((units,), DECAY_SLOW, requires_grad=True),
        torch.full((units,), 0.5, requires_grad=True),
        torch.full((units,), 1.0, requires_grad=True),
        symplectic=True,
    )

    def plain_lif() -> None:
        out = lif(current, decay=DECAY, threshold=1.0)
        torch.autograd.grad(out.spikes_TBN, current, grad)

    def fused() -> None:
        out = neurons(current, dynamics=dynamics, threshold=1.0)
        torch.autograd.grad(out.spikes_TBN, current, grad)

    return compare(f"T, B, N = {shape}", plain_lif, fused)


def learned_delays(kind: str, shape: tuple[int, int, int, int, int]) -> Comparison:
    steps, batch, inputs, units, longest = shape
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(steps + longest, batch, inputs, generator=generator) < 0.1).float()
    spikes.requires_grad_()
    kernels = torch.rand(inputs, longest + 1, generator=generator)
    reference: Callable[..., Tensor] = delayed_inputs_reference
    fast: Callable[..., Tensor] = delayed_inputs
    if kind == "synaptic":
        kernels = kernels * torch.rand(units, 1, 1, generator=generator)
        reference, fast = delayed_currents_reference, delayed_currents
    kernels.requires_grad_()

    def run(form: Callable[..., Tensor]) -> None:
        torch.autograd.grad(form(spikes, kernels).sum(), (spikes, kernels))

    name = f"{kind}  T, B, C, N, D = {shape}"
    return compare(name, partial(run, reference), partial(run, fast), rounds=5)


def main() -> None:
    threads = torch.get_num_threads()
    print_table(
        f"recurrent LIF on {threads} CPU threads, forward and backward (4x, and 3x a plain loop)",
        [recurrent(other, shape) for other in ("snntorch", "plain loop") for shape in RECURRENT],
        baseline="per step",
        candidate="fused",
    )
    print()
    print_table(
        "SE-adLIF, feed-forward, against LIF (at least 0.5x is the target)",
        [adaptive(shape) for shape in SHAPES],
        baseline="LIF",
        candidate="SE-adLIF",
    )
    print()
    print_table(
        "learned delays",
        [learned_delays(kind, shape) for kind in ("axonal", "synaptic") for shape in DELAYED],
        baseline="tap by tap",
        candidate="by blocks",
    )


if __name__ == "__main__":
    main()
