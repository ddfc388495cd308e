"""Dendrite kernels as torch loops, for float64 and for devices other than the CPU.

Names, arguments and results are those of `dendrite`, with the kind of source as first argument and
without the table. They run without autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neuro.ops.sources import SourceKind, depends_on_state, slopes, source_function


def _at(rows: Tensor, t: int) -> Tensor:
    """Row t, or the only row of a constant sequence."""
    return rows[min(t, rows.shape[0] - 1)]


def forward(
    kind: SourceKind,
    phi: Tensor,
    offset: Tensor,
    bias: Tensor,
    leak: Tensor,
    drive: Tensor,
    s0: Tensor,
    s: Tensor,
) -> None:
    before = s0
    if not depends_on_state(kind):  # g at all steps at once; what remains is a linear recurrence
        arriving, keep = drive * source_function(kind, phi + offset), 1 - leak
        for t, now in enumerate(s):
            torch.addcmul(_at(arriving, t), keep, before, out=now)
            before = now
        return
    for t, now in enumerate(s):
        g = source_function(kind, _at(phi, t) + offset, bias - before)
        torch.add(before, drive * g - leak * before, out=now)
        before = now


def backward(
    kind: SourceKind,
    phi: Tensor,
    offset: Tensor,
    bias: Tensor,
    leak: Tensor,
    drive: Tensor,
    s0: Tensor,
    s: Tensor,
    grad_s: Tensor,
    carry: Tensor,
    grad_phi: Tensor,
    grad_offset: Tensor,
    grad_bias: Tensor,
    grad_leak: Tensor,
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
        grad_leak.addcmul_(total, before, value=-1)
        grad_drive.addcmul_(total, g)
        torch.sub(total, leak * total + di, out=carry)


def rates(
    kind: SourceKind,
    phi: Tensor,
    current: Tensor,
    g: Tensor,
    dphi: Tensor | None,
    di: Tensor | None,
) -> None:
    if dphi is None or di is None:
        g.copy_(source_function(kind, phi, current))
        return
    for target, value in zip((g, dphi, di), slopes(kind, phi, current), strict=True):
        target.copy_(value)
