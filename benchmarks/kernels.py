"""Fused kernels against their step-by-step references, forward and backward, in one process.

python -m benchmarks.kernels
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import Comparison, compare, print_table
from neuro.ops import (
    dual_lif,
    dual_lif_reference,
    exponential_trace,
    exponential_trace_reference,
    lif,
    lif_reference,
)

SHAPES = ((100, 64, 512), (32, 128, 1024), (500, 16, 256))  # T, B, N
DECAY_FAST, DECAY_SLOW = math.exp(-1 / 5), math.exp(-1 / 100)  # dt 1 ms, tau 5 and 100 ms

# What a kernel is called with after its currents, and how many of these it takes.
KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int, dict[str, Any]]] = {
    "lif": (lif, lif_reference, 1, {"decay": DECAY_FAST, "threshold": 0.5}),
    "lif, reset zero": (
        lif,
        lif_reference,
        1,
        {"decay": DECAY_FAST, "threshold": 0.5, "reset": "zero"},
    ),
    "dual_lif, gate": (
        dual_lif,
        dual_lif_reference,
        2,
        {"decay_fast": DECAY_FAST, "decay_slow": DECAY_SLOW, "threshold": 0.5, "gamma": 0.3},
    ),
    "dual_lif, or": (
        dual_lif,
        dual_lif_reference,
        2,
        {"decay_fast": DECAY_FAST, "decay_slow": DECAY_SLOW, "threshold": 0.5, "merge": "or"},
    ),
    "exponential_trace": (exponential_trace, exponential_trace_reference, 1, {"decay": 0.8}),
}


def train_step(kernel: Callable[..., Any], currents: list[Tensor], grad: Tensor) -> None:
    """Forward, then backward from a gradient for every output of every step."""
    output = kernel(*currents)
    spikes = output if isinstance(output, Tensor) else output[0]
    torch.autograd.grad(spikes, currents, grad)


def measure(name: str, shape: tuple[int, int, int]) -> Comparison:
    """Time kernel `name` and its reference on random currents of `shape`."""
    fused, reference, inputs, settings = KERNELS[name]
    generator = torch.Generator().manual_seed(0)
    currents = [
        (0.2 * torch.randn(shape, generator=generator)).requires_grad_() for _ in range(inputs)
    ]
    grad = torch.randn(shape, generator=generator)
    return compare(
        f"{name}  T, B, N = {shape}",
        lambda: train_step(partial(reference, **settings), currents, grad),
        lambda: train_step(partial(fused, **settings), currents, grad),
    )


def main() -> None:
    print_table(
        f"Kernels on {torch.get_num_threads()} CPU threads, float32, forward and backward",
        [measure(name, shape) for name in KERNELS for shape in SHAPES],
        baseline="per step",
        candidate="fused",
    )


if __name__ == "__main__":
    main()
