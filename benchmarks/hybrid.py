"""Parts of the liquid-spiking-Mamba hybrid against other implementations, forward and backward.

python -m benchmarks.hybrid
"""

from __future__ import annotations

import torch
from mambapy.pscan import pscan
from torch import Tensor

from benchmarks.harness import Comparison, compare, print_table
from neuro.ops import selective_scan

SCANS = ((4, 256, 128), (4, 1024, 128))  # batch, steps, features
STATES = 16


def parallel_scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The selective scan of mambapy's Mamba block, batch first."""
    drive = (dt * u)[..., None] * B[:, :, None]
    states = pscan((dt[..., None] * A).exp(), drive)
    return (states @ C[..., None])[..., 0] + D * u


def scan(batch: int, steps: int, width: int) -> Comparison:
    u, dt = torch.randn(batch, steps, width), torch.rand(batch, steps, width) * 0.1
    A = -torch.arange(1.0, STATES + 1).repeat(width, 1)
    B, C = torch.randn(2, batch, steps, STATES)
    grad = torch.randn(batch, steps, width)
    theirs = [x.requires_grad_() for x in (u, dt, A, B, C, torch.randn(width))]
    ours = [
        (x.detach().transpose(0, 1).contiguous() if x.ndim == 3 else x.detach()).requires_grad_()
        for x in theirs
    ]
    grad_ours = grad.transpose(0, 1).contiguous()
    return compare(
        f"(B, T, D) = ({batch}, {steps}, {width}), N = {STATES}",
        lambda: torch.autograd.grad(parallel_scan(*theirs), theirs, grad),
        lambda: torch.autograd.grad(selective_scan(*ours).y_TBD, ours, grad_ours),
        rounds=7,
    )


def main() -> None:
    print_table(
        f"selective scan on {torch.get_num_threads()} CPU threads, forward and backward "
        "(3x is the target)",
        [scan(*shape) for shape in SCANS],
        baseline="mambapy",
        candidate="fused",
    )


if __name__ == "__main__":
    main()
