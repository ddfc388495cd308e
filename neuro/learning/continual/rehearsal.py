"""Methods with a memory of samples: dark experience replay, and averaged gradient episodic memory.

Plain replay is a property of the data: `phase.NAME.replay` (`neuro/data/replay.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from neuro.config.types import Count
from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.learning.continual.importance import trained
from neuro.learning.continual.memory import Memory, Sample, problem_of_capacity
from neuro.learning.metrics import cross_entropy
from neuro.learning.pooling import among
from neuro.learning.terms import Pool, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.ops.kernels.launch import untraced

Factor = Annotated[float, Ge(0)]


class DERpp(Term):
    """DER++ (Buzzega et al. 2020): rehearse samples with the outputs that they had.

        loss = alpha mean (z - f(x))^2 + beta CE(f(x'), y')

    for two draws of `samples` from a memory of `capacity` samples x, y of all updates so far, each
    with the outputs z that the model had in training on it. It needs no boundaries of tasks.
    """

    targets = ("class",)

    def __init__(
        self,
        weight: Factor = 1.0,
        alpha: Factor = 0.5,
        beta: Factor = 0.5,
        capacity: Count = 200,
        samples: Count = 32,
    ):
        super().__init__(weight)
        self.alpha = alpha
        self.beta = beta
        self.capacity = capacity
        self.samples = samples
        self.memory = Memory(capacity)
        self._seen: list[tuple[Batch, Tensor]] = []  # since the last update that was made

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        classes = range(spec.targets.classes or 0)
        if problem := problem_of_capacity(self.capacity, classes, "capacity"):
            raise ConfigError(problem)

    @untraced
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        own = self.pool(output.records["values"], batch.lengths)
        self._seen.append((batch, own.detach().float()))
        if not len(self.memory):
            return TermOutput(output.values.new_zeros(()))
        first, second = self.memory.draw(self.samples), self.memory.draw(self.samples)
        now = self._outputs(model, first)
        finite = first.outputs.isfinite() & now.isfinite()  # an overflow may have been kept
        error = torch.where(finite, now - first.outputs, 0.0).square().mean()
        scores = among(self._outputs(model, second), second.batch.choices)
        return TermOutput(
            self.alpha * error + self.beta * cross_entropy(scores, second.batch.targets)
        )

    def on_step(self, model: CoreModel, batch: Batch, step: int) -> None:
        for seen, outputs in self._seen:
            self.memory.offer(seen, outputs)
        self._seen.clear()

    def _outputs(self, model: CoreModel, sample: Sample) -> Tensor:
        """Pooled outputs `[N, K]` of the current model."""
        batch = sample.batch
        values = model(batch.sequence(), dt_ms=batch.dt_ms).values
        return self.pool(values, batch.lengths).float()


class AGEM(Term):
    """A-GEM (Chaudhry et al. 2019): no update may raise the loss on earlier phases' samples.

    The gradient g of an update is projected if it points against the gradient r of the
    cross-entropy of `samples` samples from a memory:

        g <- g - (g . r / r . r) r    if g . r < 0

    After each phase, its first `per_phase` samples in a random order are added to the memory. The
    loss itself is 0.
    """

    targets = ("class",)
    needs_earlier_phase = True
    changes_gradient = True

    def __init__(self, per_phase: Count = 50, samples: Count = 64):
        super().__init__()
        self.per_phase = per_phase
        self.samples = samples
        self.memory = Memory()

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if problem := problem_of_capacity(self.per_phase, spec.classes, "per_phase"):
            raise ConfigError(problem)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        return TermOutput(output.values.new_zeros(()))

    def change_gradient(self, model: CoreModel) -> None:
        if not len(self.memory):
            return
        batch, _ = self.memory.draw(self.samples)
        values = model(batch.sequence(), dt_ms=batch.dt_ms).values
        scores = among(self.pool(values, batch.lengths), batch.choices)
        loss = cross_entropy(scores, batch.targets)
        parameters = [p for p in trained(model).values() if p.grad is not None]
        reference = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = [(p.grad, r) for p, r in zip(parameters, reference, strict=True) if r is not None]
        against = sum(((g * r).sum() for g, r in pairs if g is not None), loss.new_zeros(()))
        length = sum(((r * r).sum() for _, r in pairs), loss.new_zeros(()))
        factor = torch.where(against < 0, against / length.clamp_min(1e-30), 0.0)
        for gradient, r in pairs:
            assert gradient is not None
            gradient -= factor * r

    def consolidate(self, model: CoreModel, batches: Iterable[Batch], pool: Pool) -> None:
        left = self.per_phase
        for batch in batches:
            taken = batch.rows(slice(left))
            self.memory.offer_all(taken, taken.inputs.new_zeros(len(taken.targets), 0))
            left -= len(taken.targets)
            if left == 0:
                return
