"""Learned delays: spikes reach a neuron through Gaussian kernels over time (DCLS).

A delay of p steps is the kernel k[d] = exp(-(d - p)^2 / (2 w^2)) / sum over d', for d = 0 .. D
(Hammouamri, Khalfaoui-Hassani and Masquelier 2023, eq. 6). It has a gradient with respect to p as
long as the width w reaches from p to the delay that helps; w shrinks in training.

Inputs `known_TBC` begin D steps before the first output: y[t] = sum over d of k[d] x[t - d].

The fast forms compute blocks of steps in the frequency domain (overlap-save). The transforms are
matrix products: blocks are short, and a product with all of them at once is faster than their FFTs.
The cost grows with the number of steps, hardly with D.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from neuro.ops.plain import has_plain_form

Product = Callable[[Tensor, Tensor], Tensor]


def gaussian_delays(positions: Tensor, width: Tensor, longest: int) -> Tensor:
    """Kernels `[..., longest + 1]` of delays at `positions` `[...]`, in steps; sums are 1."""
    distance = torch.arange(longest + 1, device=positions.device) - positions[..., None]
    return (-0.5 * (distance / width).square()).softmax(-1)


def delayed_inputs_reference(known_TBC: Tensor, kernels_CD: Tensor) -> Tensor:
    """Delays of each channel, tap by tap: `[T + D, B, C]` to `[T, B, C]`."""
    longest = kernels_CD.shape[1] - 1
    steps = len(known_TBC) - longest
    taps = (known_TBC[longest - d :][:steps] * kernels_CD[:, d] for d in range(longest + 1))
    return torch.stack(tuple(taps)).sum(0)


def delayed_currents_reference(known_TBC: Tensor, weights_NCD: Tensor) -> Tensor:
    """Sums over synapses with a kernel each, tap by tap: `[T + D, B, C]` to `[T, B, N]`."""
    longest = weights_NCD.shape[2] - 1
    steps = len(known_TBC) - longest
    taps = (known_TBC[longest - d :][:steps] @ weights_NCD[..., d].T for d in range(longest + 1))
    return torch.stack(tuple(taps)).sum(0)


@has_plain_form
def delayed_inputs(known_TBC: Tensor, kernels_CD: Tensor) -> Tensor:
    """Equal to `delayed_inputs_reference` up to rounding."""
    return _filtered(known_TBC, kernels_CD, lambda x, k: x * k[:, None])


@has_plain_form
def delayed_currents(known_TBC: Tensor, weights_NCD: Tensor) -> Tensor:
    """Equal to `delayed_currents_reference` up to rounding."""
    return _filtered(known_TBC, weights_NCD, lambda x, k: torch.bmm(x, k.transpose(1, 2)))


def _filtered(known_TBC: Tensor, kernels: Tensor, product: Product) -> Tensor:
    """Convolve over time; `product` combines inputs `[F, n, C]` and kernels `[F, ...]`.

    It is linear in both; three real products make a complex one (Gauss's trick).
    """
    longest = kernels.shape[-1] - 1
    steps, batch = len(known_TBC) - longest, known_TBC.shape[1]
    # longer blocks repeat fewer steps, and have longer transforms
    block = min(steps, max(2 * longest, 32))
    count = -(-steps // block)
    length = block + longest
    padded = torch.nn.functional.pad(known_TBC, (0, 0, 0, 0, 0, count * block - steps))
    blocks = padded.unfold(0, length, block).movedim(3, 0)  # [length, count, B, C]
    forward, back = _transforms(length, longest, known_TBC)
    x = (forward @ blocks.flatten(1)).view(2, -1, count * batch, known_TBC.shape[2])
    k = (forward[:, : longest + 1] @ kernels.flatten(0, -2).T).view(2, -1, *kernels.shape[:-1])
    real, imaginary = product(x[0], k[0]), product(x[1], k[1])
    mixed = product(x[0] + x[1], k[0] + k[1])
    y = torch.stack([real - imaginary, mixed - real - imaginary])
    out = (back @ y.flatten(0, 1).flatten(1)).view(block, count, batch, -1)
    return out.transpose(0, 1).flatten(0, 1)[:steps]


def _transforms(length: int, longest: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices of the real Fourier transform and of its inverse.

    Rows are the real, then the imaginary parts, `[2 F, length]`. The first `longest` steps of a
    block, which wrap around, are left out of the inverse `[length - longest, 2 F]`.
    """
    frequencies = length // 2 + 1
    turns = torch.outer(torch.arange(frequencies), torch.arange(length)) % length
    angles = turns.to(torch.float64) * (2 * math.pi / length)
    forward = torch.cat([angles.cos(), -angles.sin()])
    # all but the constant and the highest frequency of an even length stand for two
    counted = torch.full((frequencies, 1), 2.0, dtype=torch.float64)
    counted[0] = 1
    if length % 2 == 0:
        counted[-1] = 1
    back = (counted.repeat(2, 1) * forward / length)[:, longest:].T
    return forward.to(like), back.to(like)
