"""HLOP's rule for lateral neurons, used together with gradients (arXiv 2402.11984)."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Gt

from neuro.data.base import Batch, TaskSpec
from neuro.errors import ConfigError
from neuro.layers.subspace import ProtectedSynapse
from neuro.learning.buffers import BufferUpdate
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.runtime.distributed import batch_means


class HLOPSubspace(Term):
    """Oja's rule for the principal subspace of every layer's presynaptic activity; no gradient."""

    needs_graph = False

    def __init__(self, weight: Annotated[float, Ge(0)] = 1.0, rate: Annotated[float, Gt(0)] = 0.5):
        super().__init__(weight)
        self.rate = rate

    def check(self, model: CoreModel, spec: TaskSpec) -> None:
        if not _synapses(model):
            raise ConfigError(
                f"needs synapses with lateral neurons; {type(model).__name__} has none. "
                "Use model=hlop."
            )

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(f"{name}/inputs" for name in _synapses(model))

    def updated_buffers(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(f"layers.{name}.synapse.lateral" for name in _synapses(model))

    @torch.no_grad()
    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        samples = len(batch.targets)
        sums = {
            name: synapse.oja_sums(output.records[f"{name}/inputs"].mean(0))
            for name, synapse in _synapses(model).items()
        }
        energies = batch_means([energy / samples for _, energy in sums.values()], samples)
        updates = {}
        for (name, (change, _)), energy in zip(sums.items(), energies, strict=True):
            step = self.weight * self.rate * change / (samples * energy).clamp_min(1e-12)
            updates[f"layers.{name}.synapse.lateral"] = BufferUpdate(step)
        return TermOutput(output.values.new_zeros(()), updates)


def _synapses(model: CoreModel) -> dict[str, ProtectedSynapse]:
    return {
        name.split(".")[1]: module
        for name, module in model.named_modules()
        if isinstance(module, ProtectedSynapse)
    }
