"""Synaptic intelligence (Zenke et al. 2017): importances from the path of the weights in training.

In each phase, omega_i = -sum over updates of g_i dw_i is the decrease of the loss that is due to
the weight i. After it, with D_i the weight's whole change in the phase,

    importance_i <- importance_i + max(omega_i, 0) / (D_i^2 + damping)
    loss = strength * sum_i importance_i (w_i - w*_i)^2

The gradient g is that of the update, after clipping; it includes the penalty, as in the code that
comparisons use (van de Ven and Tolias 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge, Gt

from neuro.data.base import Batch
from neuro.learning.continual.importance import penalty, trained
from neuro.learning.continual.kept import Kept
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.ops.kernels.launch import untraced


class SI(Term):
    """The quadratic penalty; zero until the first phase has ended.

    It reads the gradient after each update, so weights that callbacks change count as changed by
    the next one.
    """

    needs_earlier_phase = True

    def __init__(
        self,
        weight: Annotated[float, Ge(0)] = 1.0,
        strength: Annotated[float, Ge(0)] = 1.0,
        damping: Annotated[float, Gt(0)] = 0.001,
    ):
        super().__init__(weight)
        self.strength = strength
        self.damping = damping
        self.importance = Kept()
        self.anchor = Kept()  # weights at the end of the phase before
        self.omega = Kept()
        self.before = Kept()  # weights before the update

    @untraced
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        for name, parameter in trained(model).items():
            if name not in self.before:
                self.before[name] = parameter.detach().clone()
            if name not in self.anchor:
                self.anchor[name] = self.before[name]
        return TermOutput(self.strength * penalty(model, self.importance, self.anchor))

    @torch.no_grad()
    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        for name, parameter in trained(model).items():
            if parameter.grad is None or name not in self.before:
                continue
            change = parameter - self.before[name]
            # an update that was reverted changes nothing, although its gradient is not finite
            decrease = torch.where(change == 0, 0.0, -parameter.grad * change)
            self.omega[name] = self.omega.get(name, torch.zeros_like(change)) + decrease
            self.before[name] = parameter.detach().clone()

    @torch.no_grad()
    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        for name, parameter in trained(model).items():
            weights = parameter.detach().clone()
            if name in self.omega:
                whole = (weights - self.anchor[name]) ** 2 + self.damping
                gained = self.omega[name].clamp_min(0) / whole
                self.importance[name] = self.importance.get(name, torch.zeros_like(gained)) + gained
            self.anchor[name] = weights
        self.omega.clear()
        self.before.clear()
