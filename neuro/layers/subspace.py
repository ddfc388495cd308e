"""Synapses whose weights change only outside a protected subspace of their inputs (HLOP).

Xiao et al., ICLR 2024, arXiv 2402.11984. During a task, lateral neurons learn the principal
subspace of a layer's presynaptic activity by Oja's rule. Later tasks update weights from the
activity with its component in that subspace removed, x - P x, so the layer's output for earlier
inputs does not change. The weight gradient of a linear map is sum(g x^T), so projecting it once,
G - G P, equals projecting every x. Only an optimizer whose steps are linear in the gradients (SGD,
with or without momentum) stays outside the subspace; Adam scales every weight separately, which
leads back into it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.layers.synapse import Synapse, WrappedSynapse

#: a lateral neuron (of about unit length) with a shorter component outside the subspace is ignored
_NOTHING_NEW = 1e-3


class _ProjectGradient(torch.autograd.Function):
    """Identity whose gradient is projected out of a subspace: G - G P."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, projector: Tensor) -> Tensor:
        ctx.save_for_backward(projector)
        return weight.view_as(weight)  # a view: the parameter itself stays a leaf

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (projector,) = ctx.saved_tensors
        flat = grads[0].flatten(1)
        return (flat - flat @ projector.to(flat.dtype)).view_as(grads[0]), None


class ProtectedSynapse(WrappedSynapse):
    """A convolution or linear map with a protected input subspace.

    Buffers, with D the fan-in: `lateral` `[M, D]`, weights of the lateral neurons of the current
    task; `projector` `[D, D]`, the orthogonal projector onto the subspace of earlier tasks.
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
        """The weights, with their gradient projected out of the protected subspace."""
        projected: Tensor = _ProjectGradient.apply(self.synapse.weight, self.projector)
        return projected

    def oja(self, rates: Tensor, rate: float) -> Tensor:
        """Update of the lateral neurons by Oja's subspace rule, for mean inputs `[B, ...]`.

        With y = H x': dH = rate * (<y x'^T> - <y y^T> H) / <|x'|^2>, where x' is the input without
        its protected component. The division makes `rate` independent of the layer's activity.
        """
        change, energy = self.oja_sums(rates)
        return rate * change / energy.clamp_min(1e-12)

    def oja_sums(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of Oja's rule: sums over samples of the update and |x'|^2."""
        x = self._presynaptic(rates)
        x = x - x @ self.projector
        y = x @ self.lateral.T
        return y.T @ x - (y.T @ y) @ self.lateral, x.square().sum()

    @torch.no_grad()
    def protect(self) -> None:
        """Add the lateral neurons' subspace to the protected one, and draw new lateral neurons."""
        # An orthonormal basis of what the lateral neurons add to the protected subspace: with it
        # the sum of projectors is a projector again.
        new = self.lateral - self.lateral @ self.projector
        directions, lengths, _ = torch.linalg.svd(new.T, full_matrices=False)
        basis = directions[:, lengths > _NOTHING_NEW]
        self.projector += basis @ basis.T
        fresh = _random_rows(*self.lateral.shape).to(self.lateral)
        self.lateral.copy_(fresh - fresh @ self.projector)

    def _presynaptic(self, rates: Tensor) -> Tensor:
        """Mean inputs `[B, ...]` as the vectors `[N, D]` that the weights are multiplied with."""
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
    """Random directions: Gaussian rows, normalised to unit length."""
    return F.normalize(torch.randn(rows, columns), dim=1)
