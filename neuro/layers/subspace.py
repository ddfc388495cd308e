"""Weights that learn only outside a protected subspace of their inputs (HLOP).

Xiao et al., ICLR 2024, arXiv 2402.11984. Lateral neurons find the principal subspace of a layer's
presynaptic activity by Oja's rule while a task is learned. Later tasks then use the activity with
its component in that subspace removed, x - P x, so what the layer answers to earlier inputs stays.
For a linear map the weight gradient is sum(g x^T), hence projecting it once, G - G P, is the same
as projecting every x. Only an optimizer whose steps are sums of gradients (SGD, with or without
momentum) keeps to it; Adam, which scales every weight by itself, turns its step back into it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.synapse import Synapse, WrappedSynapse

#: a lateral neuron (of about unit length) with less than this outside the subspace adds nothing
_NOTHING_NEW = 1e-3


class _ProjectGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, projector: Tensor) -> Tensor:
        ctx.save_for_backward(projector)
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (projector,) = ctx.saved_tensors
        flat = grads[0].flatten(1)
        return (flat - flat @ projector.to(flat.dtype)).view_as(grads[0]), None


class ProtectedSynapse(WrappedSynapse):
    """A convolution or linear map with a protected input subspace.

    `lateral` `[M, D]` are the lateral neurons of the current task, `projector` `[D, D]` the
    orthogonal projector onto what earlier tasks' neurons found; D is the fan-in.
    """

    lateral: Tensor
    projector: Tensor

    def __init__(self, synapse: Synapse, neurons: int):
        super().__init__(synapse)
        fan_in = synapse.weight[0].numel()
        self.neurons = min(neurons, fan_in)
        self.register_buffer("lateral", _random_rows(self.neurons, fan_in))
        self.register_buffer("projector", torch.zeros(fan_in, fan_in))

    def weight(self) -> Tensor:
        """The weights, whose gradient stays out of the protected subspace."""
        projected: Tensor = _ProjectGradient.apply(self.synapse.weight, self.projector)
        return projected

    def oja(self, rates: Tensor, rate: float) -> Tensor:
        """Oja's subspace rule: the lateral neurons' change for mean inputs `[B, ...]`.

        With y = H x': dH = rate * (<y x'^T> - <y y^T> H) / <|x'|^2>, where x' is the input without
        its protected part. The division makes the rate independent of how strongly a layer fires.
        """
        change, energy = self.oja_sums(rates)
        return rate * change / energy.clamp_min(1e-12)

    def oja_sums(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Oja's rule before its division: sums over the samples of the change and of |x'|^2."""
        x = self._presynaptic(rates)
        x = x - x @ self.projector
        y = x @ self.lateral.T
        return y.T @ x - (y.T @ y) @ self.lateral, x.square().sum()

    @torch.no_grad()
    def protect(self) -> None:
        """Add the lateral neurons' subspace to the protected one, and start new neurons."""
        new = self.lateral - self.lateral @ self.projector
        directions, lengths, _ = torch.linalg.svd(new.T, full_matrices=False)
        basis = directions[:, lengths > _NOTHING_NEW]
        self.projector += basis @ basis.T
        fresh = _random_rows(*self.lateral.shape).to(self.lateral)
        self.lateral.copy_(fresh - fresh @ self.projector)

    def _presynaptic(self, rates: Tensor) -> Tensor:
        """Mean inputs `[B, ...]` as the vectors `[N, D]` that the weights meet."""
        if isinstance(self.synapse, nn.Linear):
            return rates.flatten(1)
        patches = F.unfold(
            rates,
            self.synapse.kernel_size,
            padding=self.synapse.padding,  # type: ignore[arg-type]
            stride=self.synapse.stride,
        )
        return patches.transpose(1, 2).flatten(0, 1)


def _random_rows(rows: int, columns: int) -> Tensor:
    """Random rows of unit length."""
    return F.normalize(torch.randn(rows, columns), dim=1)
