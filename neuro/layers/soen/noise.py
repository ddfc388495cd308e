"""Noise in SOEN layers: on inputs, source functions, states, bias currents and connections.

`noise` is drawn for every step, node and sample (thermal noise); `perturb` for every node and
sample, and held over the sequence (deviations of a fabricated chip from its design). Both are
Gaussian. Relative noise is multiplied by the value that it is added to.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from neuro.config.types import STRICT

Deviation = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class NoiseLevels:
    """Standard deviations of the noise at each site; 0 is none.

    `phi`: input of a layer; `g`: output of the source function; `s`: states after a step;
    `bias_current`: of the nodes; `j`: connection weights.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = STRICT

    phi: Deviation = 0.0
    g: Deviation = 0.0
    s: Deviation = 0.0
    bias_current: Deviation = 0.0
    j: Deviation = 0.0


#: sites that noise can be added to
PLACES = tuple(field.name for field in fields(NoiseLevels))


class LayerNoise:
    """The noise of one layer, or one connection, during one forward pass."""

    def __init__(self, noise: NoiseLevels, perturb: NoiseLevels, relative: bool):
        self._noise = noise
        self._perturb = perturb
        self._relative = relative
        self._held: dict[str, Tensor] = {}

    def acts_on(self, *places: str) -> bool:
        """True if there is noise at any of these sites."""
        return any(getattr(self._noise, p) or getattr(self._perturb, p) for p in places)

    def add(self, place: str, x: Tensor, batch_size: int | None = None) -> Tensor:
        """Add the noise of a site to `x` `[..., B, N]`.

        With a `batch_size`, `x` is a value per node `[N]`, and is expanded over the samples first.
        """
        if not self.acts_on(place):
            return x
        if batch_size is not None:
            x = x.expand(batch_size, *x.shape)
        unit = torch.zeros_like(x)
        if (std := getattr(self._noise, place)) > 0:
            unit = std * torch.randn_like(x)
        if (std := getattr(self._perturb, place)) > 0:
            if place not in self._held:
                # one draw for all steps: [B, N] of [..., B, N]
                self._held[place] = torch.randn_like(x[(0,) * (x.ndim - 2)])
            unit = unit + std * self._held[place]
        return x + unit * (x if self._relative else 1.0)

    def through(self, s_TBK: Tensor, weight: Tensor, mask: Tensor | None) -> Tensor:
        """Contribution `[..., B, N]` of noise on the weights `[N, K]` to `weight @ s`.

        mask: present connections `[N, K]`; None is all.
        """
        scale = weight if self._relative else torch.ones_like(weight)
        if mask is not None:
            scale = scale * mask
        added = s_TBK.new_zeros(())
        if (std := self._noise.j) > 0:
            # The sum of independent noise on all weights is Gaussian with variance
            # sum_k (std s_k)^2. Drawing that sum needs no weights per step and sample (local
            # reparametrisation, Kingma et al. 2015).
            variance = F.linear(s_TBK.square(), scale.square())
            added = std * variance.clamp_min(1e-24).sqrt() * torch.randn_like(variance)
        if (std := self._perturb.j) > 0:
            if "j" not in self._held:
                shape = s_TBK.shape[-2], *weight.shape
                self._held["j"] = torch.randn(shape, dtype=s_TBK.dtype, device=s_TBK.device)
            offsets = std * self._held["j"] * scale
            added = added + torch.einsum("bnk,...bk->...bn", offsets, s_TBK)
        return added


#: no noise
QUIET = LayerNoise(NoiseLevels(), NoiseLevels(), relative=False)
