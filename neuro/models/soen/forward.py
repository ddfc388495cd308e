"""One forward pass of a SOEN: order of layers, their inputs and their noise."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuro.layers.soen.noise import QUIET, LayerNoise
from neuro.layers.synapse import fold_time
from neuro.models.soen.architecture import connection_name

if TYPE_CHECKING:
    from neuro.models.soen.model import SOEN


def hold_frames(frames_TBN: Tensor, substeps: int) -> Tensor:
    """Repeat each frame for `substeps` steps; a constant sequence stays an expanded view."""
    if substeps == 1:
        return frames_TBN
    if frames_TBN.stride(0) == 0:
        return frames_TBN[:1].expand(substeps * len(frames_TBN), -1, -1)
    return frames_TBN.repeat_interleave(substeps, 0)


class ForwardPass:
    """Layer states and outputs during one forward pass."""

    def __init__(self, model: SOEN, states: dict[str, Any], record: Sequence[str]):
        self.states = states
        self.s_TBN: dict[str, Tensor] = {}
        self.records: dict[str, Tensor] = {}
        self._model = model
        self._layers = model.named_layers()
        self._traces = {
            name: [r.removeprefix(f"{name}/") for r in record if r.startswith(f"{name}/")]
            for name in self._layers
        }
        simulation = model.simulation
        self._dt = model.dt().squeeze(0) / simulation.substeps
        self._solver = simulation.solver
        self._delays_all = simulation.evaluation == "jacobi"
        noisy = model.training or simulation.noise_in_evaluation
        self._noise = {
            name: LayerNoise(simulation.noise, simulation.perturb, simulation.noise_relative)
            if noisy
            else QUIET
            for name in (*self._layers, *model.J)
        }

    def whole(self, name: str, frames_TBN: Tensor) -> None:
        """Run a layer over all steps; its source layers must have been run."""
        internal = name in self._model.sources[name]
        if internal and self._noise[connection_name(name, name)].acts_on("j"):
            return self.in_steps((name,), frames_TBN)
        traces = self._traces[name]
        out = self._layers[name].run(
            self._arriving(name, (name,), frames_TBN),
            self.states[name],
            self._dt,
            noise=self._noise[name],
            internal=self._model.connection(name, name).matrix() if internal else None,
            solver=self._solver,
            traces=[trace for trace in traces if trace != "s"],
        )
        self.states[name] = out.state
        self.s_TBN[name] = out.s_TBN
        self.records |= {f"{name}/{t}": out.traces.get(t, out.s_TBN) for t in traces}

    def in_steps(self, names: Sequence[str], frames_TBN: Tensor) -> None:
        """Run the layers of a loop together, step by step."""
        outside = {name: self._arriving(name, names, frames_TBN) for name in names}
        found: dict[str, list[Tensor]] = {}
        for t in range(len(frames_TBN)):
            before = dict(self.states)
            for name in names:
                # the state of an earlier layer of the block is new already, unless jacobi
                current = before if self._delays_all else self.states
                phi_BN = outside[name][t]
                for source in self._model.sources[name]:
                    if source in names:
                        phi_BN = phi_BN + self._sent(source, name, current[source][0])
                self.states[name], traces = self._layers[name].step(
                    phi_BN, before[name], self._dt, self._noise[name]
                )
                traces = traces | {"s": self.states[name][0]}
                for trace in ("s", *(t for t in self._traces[name] if t != "s")):
                    found.setdefault(f"{name}/{trace}", []).append(traces[trace])
        for name in names:
            self.s_TBN[name] = torch.stack(found[f"{name}/s"])
            self.records |= {
                f"{name}/{t}": self.s_TBN[name] if t == "s" else torch.stack(found[f"{name}/{t}"])
                for t in self._traces[name]
            }

    def _arriving(self, name: str, block: Sequence[str], frames_TBN: Tensor) -> Tensor:
        """Sum of a layer's inputs from outside its block, `[T, B, N]`."""
        sources = self._model.sources[name]
        if not sources:  # the layer of the inputs
            return frames_TBN
        sent = [self._sent(s, name, self.s_TBN[s]) for s in sources if s not in block]
        if sent:
            return functools.reduce(torch.add, sent)
        zeros = frames_TBN.new_zeros(1, 1, self._layers[name].dim)
        return zeros.expand(*frames_TBN.shape[:2], -1)

    def _sent(self, source: str, target: str, s: Tensor) -> Tensor:
        """A connection's output for states `[B, N]` or `[T, B, N]` of its source."""
        connection = self._model.connection(source, target)
        noise = self._noise[connection_name(source, target)]
        if noise.acts_on("j"):
            return connection(s, noise)
        return fold_time(connection, s) if s.ndim == 3 else connection(s)
