"""Parts of the liquid-spiking-Mamba hybrid against other implementations, forward and backward.

python -m benchmarks.hybrid
"""

from __future__ import annotations

from collections.abc import Callable

import ncps.torch
import torch
from mambapy.pscan import pscan
from torch import Tensor, nn

from benchmarks.harness import Comparison, compare, print_table
from neuro.layers.liquid import CfC
from neuro.ops import selective_scan

SCANS = ((4, 256, 128), (4, 1024, 128))  # batch, steps, features
STATES = 16
CELLS = ((32, 128, 64), (32, 256, 128))  # batch, steps, inputs and units


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


def cell(name: str, baseline: nn.Module, batch: int, steps: int, width: int) -> Comparison:
    """A CfC of ours against a network that returns (outputs, state); both without state."""
    x, grad = torch.randn(2, steps, batch, width)
    x.requires_grad_()
    network = CfC(width, width)

    def learn(other: Callable[[Tensor], tuple[Tensor, object]], parameters: list[Tensor]) -> None:
        torch.autograd.grad(other(x)[0], [x, *parameters], grad)

    return compare(
        f"{name} (B, T, H) = ({batch}, {steps}, {width})",
        lambda: learn(baseline, list(baseline.parameters())),
        lambda: learn(network, list(network.parameters())),
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
    print()
    networks: tuple[tuple[str, Callable[[int], nn.Module]], ...] = (
        ("ncps", lambda width: ncps.torch.CfC(width, width, batch_first=False)),
        ("GRU", lambda width: nn.GRU(width, width)),
    )
    print_table(
        "CfC, forward and backward (3x of ncps and 1 / 1.3 = 0.77x of torch's GRU are the targets)",
        [cell(name, make(shape[2]), *shape) for name, make in networks for shape in CELLS],
        baseline="other",
        candidate="fused",
    )


if __name__ == "__main__":
    main()
