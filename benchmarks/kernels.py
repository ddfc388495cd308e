"""Fused kernels against step-by-step loops through autograd, forward and backward, in one process.

Two loops: the plain one that people write, `for t in range(T): ... x[t]`, whose backward makes
a gradient of the whole sequence for every step; and our references, which unbind the sequence
first and are as fast as such a loop gets.

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
from neuro.ops.lif import reset_membrane
from neuro.ops.surrogate import Surrogate, spike

SHAPES = ((100, 64, 512), (32, 128, 1024), (500, 16, 256))  # T, B, N
DECAY_FAST, DECAY_SLOW = math.exp(-1 / 5), math.exp(-1 / 100)  # dt 1 ms, tau 5 and 100 ms


def plain_lif(
    current: Tensor, *, decay: float, threshold: float, reset: Any = "subtract"
) -> Tensor:
    """Spikes of LIF neurons, one indexed step after the other."""
    v = torch.zeros_like(current[0])
    spikes = []
    for t in range(len(current)):
        v = decay * v + current[t]
        s = spike(v - threshold, Surrogate())
        v = reset_membrane(v, s.detach(), torch.tensor(threshold), reset)
        spikes.append(s)
    return torch.stack(spikes)


def plain_dual_lif(
    fast: Tensor,
    slow: Tensor,
    *,
    decay_fast: float,
    decay_slow: float,
    threshold: float,
    gamma: float | None = None,
    merge: str = "gate",
    reset: Any = "subtract",
) -> Tensor:
    """Spikes of dual-timescale neurons, one indexed step after the other."""
    v_fast, v_slow = torch.zeros_like(fast[0]), torch.zeros_like(slow[0])
    theta, spikes = torch.tensor(threshold), []
    for t in range(len(fast)):
        v_fast, v_slow = decay_fast * v_fast + fast[t], decay_slow * v_slow + slow[t]
        if gamma is not None:
            s = spike(gamma * v_fast + (1 - gamma) * v_slow - theta, Surrogate())
            s_fast = s_slow = s
        else:
            s_fast, s_slow = spike(v_fast - theta, Surrogate()), spike(v_slow - theta, Surrogate())
            s = 1 - (1 - s_fast) * (1 - s_slow)
        v_fast = reset_membrane(v_fast, s_fast.detach(), theta, reset)
        v_slow = reset_membrane(v_slow, s_slow.detach(), theta, reset)
        spikes.append(s)
    return torch.stack(spikes)


PLAIN: dict[Callable[..., Any], Callable[..., Any]] = {lif: plain_lif, dual_lif: plain_dual_lif}

LIF: dict[str, Any] = {"decay": DECAY_FAST, "threshold": 0.5}
DUAL: dict[str, Any] = {"decay_fast": DECAY_FAST, "decay_slow": DECAY_SLOW, "threshold": 0.5}
GATE, OR, ZERO = {"gamma": 0.3}, {"merge": "or"}, {"reset": "zero"}

# Further arguments of each kernel, and the number of its currents.
KERNELS: dict[str, tuple[Callable[..., Any], Callable[..., Any], int, dict[str, Any]]] = {
    "lif": (lif, lif_reference, 1, LIF),
    "lif, reset zero": (lif, lif_reference, 1, LIF | ZERO),
    "dual_lif, gate": (dual_lif, dual_lif_reference, 2, DUAL | GATE),
    "dual_lif, gate, reset zero": (dual_lif, dual_lif_reference, 2, DUAL | GATE | ZERO),
    "dual_lif, or": (dual_lif, dual_lif_reference, 2, DUAL | OR),
    "dual_lif, or, reset zero": (dual_lif, dual_lif_reference, 2, DUAL | OR | ZERO),
    "exponential_trace": (exponential_trace, exponential_trace_reference, 1, {"decay": 0.8}),
}


def train_step(kernel: Callable[..., Any], currents: list[Tensor], grad: Tensor) -> None:
    """Forward, then backward from a gradient for every output of every step."""
    output = kernel(*currents)
    spikes = output if isinstance(output, Tensor) else output[0]
    torch.autograd.grad(spikes, currents, grad)


def measure(name: str, shape: tuple[int, int, int], *, plain: bool) -> Comparison:
    """Time kernel `name` and a loop (the plain one, or its reference) on currents of `shape`."""
    fused, reference, inputs, settings = KERNELS[name]
    loop = PLAIN[fused] if plain else reference
    generator = torch.Generator().manual_seed(0)
    currents = [
        (0.2 * torch.randn(shape, generator=generator)).requires_grad_() for _ in range(inputs)
    ]
    grad = torch.randn(shape, generator=generator)
    return compare(
        f"{name}  T, B, N = {shape}",
        lambda: train_step(partial(loop, **settings), currents, grad),
        lambda: train_step(partial(fused, **settings), currents, grad),
        rounds=5 if plain else 11,
    )


def main() -> None:
    for plain, title in ((True, "a plain loop"), (False, "a loop over the unbound sequence")):
        names = [name for name in KERNELS if not plain or KERNELS[name][0] in PLAIN]
        print_table(
            f"Kernels on {torch.get_num_threads()} CPU threads, forward and backward: {title}",
            [measure(name, shape, plain=plain) for name in names for shape in SHAPES],
            baseline="per step",
            candidate="fused",
        )
        print()


if __name__ == "__main__":
    main()
