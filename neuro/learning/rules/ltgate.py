"""LT-Gate's local learning (arXiv 2510.12843): Hebbian branches, an orthogonal projection, a gate.

For every layer and both branches k, from a forward pass without a graph:

    trace    x[t] = decay * x[t-1] + input[t]                     presynaptic, per synapse
    Hebb     D_k  = < post_k[t] x[t]^T >                          mean over batch, space and time
    Oja      v_k <- v_k + eta_v * (<a y> - <y^2> v_k),  y = v_k^T a,  a = channel rates of branch k
    project  D_k <- D_k - v_k (v_k^T D_k)                         v_k of unit length
    select   D_fast *= gamma,  D_slow *= 1 - gamma
    learn    W_k <- W_k + lr * D_k                                lr is the optimizer's

`centre` subtracts the mean activity from both sides of the Hebbian product (Sejnowski 1977): plain
Hebb has nothing that makes weights shrink and drives every neuron to fire all the time.
"""

from __future__ import annotations

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.layers.gate import VarianceGate
from neuro.layers.spiking import DualTimescaleLayer
from neuro.learning.objective import Increment, Term, TermOutput
from neuro.models.base import CoreModel, ModelOutput

BRANCHES = ("fast", "slow")


def dual_layers(model: CoreModel) -> dict[str, DualTimescaleLayer]:
    """The dual-timescale layers of a model by name. ConfigError if it has none."""
    layers = {
        name.removeprefix("layers."): module
        for name, module in model.named_modules()
        if isinstance(module, DualTimescaleLayer)
    }
    if not layers:
        raise ConfigError(
            f"LT-Gate's rule needs dual-timescale layers; {type(model).__name__} has none. "
            "Use model=ltgate, or rule=surrogate."
        )
    return layers


class GateVariance(Term):
    """Keeps the running variances of a model's variance gates; no gradient."""

    needs_graph = False

    def records(self, model: CoreModel) -> tuple[str, ...]:
        return tuple(f"{name}/{branch}_rate" for name in self._gated(model) for branch in BRANCHES)

    def forward(self, model: CoreModel, batch: Batch, output: ModelOutput) -> TermOutput:
        increments = {}
        for name, gate in self._gated(model).items():
            rates = [output.records[f"{name}/{branch}_rate"] for branch in BRANCHES]
            for buffer, change in gate.change(*rates).items():
                scaled = change * model.plasticity
                increments[f"layers.{name}.gate.{buffer}"] = Increment(scaled, "mean")
        return TermOutput(output.values.new_zeros(()), increments)

    @staticmethod
    def _gated(model: CoreModel) -> dict[str, VarianceGate]:
        return {
            name: layer.gate
            for name, layer in dual_layers(model).items()
            if isinstance(layer.gate, VarianceGate)
        }
