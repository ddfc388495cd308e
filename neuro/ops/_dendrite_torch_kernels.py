"""The kernels of dendrites as torch loops: for other devices, float64 and all sources.

Same names, arguments and results as in `_dendrite_kernels`, apart from the kind of source in front
and no table at the end. They run without autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.ops.sources import Source, slopes, source


def _at(rows: Tensor, t: int) -> Tensor:
    """Row t, or the only row."""
    return rows[min(t, rows.shape[0] - 1)]


def forward(
    kind: Source,
    phi: Tensor,
    offset: Tensor,
    bias: Tensor,
    keep: Tensor,
    drive: Tensor,
    s0: Tensor,
    s: Tensor,
) -> None:
    before = s0
    for t, now in enumerate(s):
        g = source(kind, _at(phi, t) + offset, bias - before)
        torch.mul(keep, before, out=now).addcmul_(drive, g)
        before = now


def backward(
    kind: Source,
    phi: Tensor,
    offset: Tensor,
    bias: Tensor,
    keep: Tensor,
    drive: Tensor,
    s0: Tensor,
    s: Tensor,
    grad_s: Tensor,
    carry: Tensor,
    grad_phi: Tensor,
    grad_offset: Tensor,
    grad_bias: Tensor,
    grad_keep: Tensor,
    grad_drive: Tensor,
) -> None:
    for t in range(len(s) - 1, -1, -1):
        before = s[t - 1] if t else s0
        g, dphi, di = slopes(kind, _at(phi, t) + offset, bias - before)
        total = carry + _at(grad_s, t)
        push = drive * total
        dphi, di = dphi * push, di * push
        if grad_phi.shape[0] == 1:
            grad_phi[0] += dphi
        else:
            grad_phi[t] = dphi
        grad_offset.add_(dphi)
        grad_bias.add_(di)
        grad_keep.addcmul_(total, before)
        grad_drive.addcmul_(total, g)
        torch.mul(keep, total, out=carry).sub_(di)


def rates(
    kind: Source, phi: Tensor, current: Tensor, g: Tensor, dphi: Tensor | None, di: Tensor | None
) -> None:
    if dphi is None or di is None:
        g.copy_(source(kind, phi, current))
        return
    for target, value in zip((g, dphi, di), slopes(kind, phi, current), strict=True):
        target.copy_(value)
