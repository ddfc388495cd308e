"""Networks of superconducting dendrites, and of other layers in the same architecture.

Layers are evaluated in the order in which they are listed. A connection to a later layer acts in
the same step, one to an earlier layer (a back edge) or within a layer a step later. A layer outside
all loops sees whole sequences at once; layers in a loop go step by step together.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Gt, MinLen
from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.errors import ConfigError, nearest
from neuro.layers.soen.base import NodeParameter, SoenLayer
from neuro.layers.soen.connection import Connection
from neuro.layers.soen.noise import QUIET, LayerNoise, NoiseLevels
from neuro.layers.synapse import fold_time
from neuro.models.base import Connection as NamedConnection
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.soen_architecture import (
    Architecture,
    ConnectionSpec,
    Evaluation,
    LayerSpec,
    Simulation,
    Source,
    describe,
    read_source,
)
from neuro.models.weights import load_weights
from neuro.ops.dendrite import Solver


class SOEN(CoreModel):
    """A network of `layers` and `connections`, see `soen_architecture`.

    With an `architecture` file these change the file's entries. A model file (`models/file.py`)
    gives its architecture, with `load_exact_state` its weights as well; else they are drawn anew.
    The frames of the data, flattened, are the states of the first layer, the states of the last
    the outputs. Every frame is a step of `dt`, in units of 1 / omega_c, whatever time passes
    between frames. `noise` and `perturb` act in training; with `noise_in_evaluation` always.
    `evaluation` jacobi delays all connections by a step, gauss_seidel takes step after step even
    where layerwise (which a network without back edges allows) would give the same sooner.
    Records: `<layer>/s`, `<layer>/phi`, and `<layer>/g` of layers with a source, `[T, B, N]`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        layers: tuple[LayerSpec, ...] = (),
        connections: tuple[ConnectionSpec, ...] = (),
        architecture: Annotated[str, MinLen(1)] | None = None,
        load_exact_state: bool = False,
        dt: Annotated[float, Gt(0)] | None = None,
        dt_learnable: bool | None = None,
        evaluation: Evaluation | None = None,
        solver: Solver | None = None,
        noise: NoiseLevels | None = None,
        perturb: NoiseLevels | None = None,
        noise_relative: bool | None = None,
        noise_in_evaluation: bool | None = None,
    ):
        super().__init__()
        source = Source(Architecture((), ()), Simulation(), None)
        if architecture is not None:
            source = read_source(Path(architecture))
        if load_exact_state and source.weights is None:
            raise ValueError(
                f"load_exact_state: takes the weights of a model file, and architecture="
                f"{architecture} is none"
            )
        given = {
            "dt": dt,
            "dt_learnable": dt_learnable,
            "evaluation": evaluation,
            "solver": solver,
            "noise": noise,
            "perturb": perturb,
            "noise_relative": noise_relative,
            "noise_in_evaluation": noise_in_evaluation,
        }
        self.simulation = source.simulation.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        self.architecture = source.architecture.changed(layers, connections)
        made = self.architecture.build(prod(spec.input_shape), spec.outputs)
        self.layers = nn.ModuleDict(made.layers)
        self.J = nn.ModuleDict({_key(*ends): made.connections[ends] for ends in made.connections})
        #: the layers that each layer hears
        self.sources = {
            name: tuple(source for source, target in made.connections if target == name)
            for name in made.layers
        }
        self._blocks = self._make_blocks()
        physical = any(layer.physical for layer in made.layers.values())
        if self.simulation.dt_learnable and not physical:
            raise ValueError("dt_learnable: no layer has dynamics in steps of dt")
        self.dt = NodeParameter(
            "dt", self.simulation.dt, 1, learnable=self.simulation.dt_learnable, positive=True
        )
        if load_exact_state and source.weights is not None:
            load_weights(self, source.weights, str(architecture))

    def standalone(self, node: Mapping[str, Any]) -> dict[str, Any]:
        described = describe(self.architecture, self.simulation)
        return {**node, "architecture": None, "load_exact_state": False, **described}

    def named_layers(self) -> dict[str, SoenLayer]:
        """The layers by name, from the inputs to the outputs."""
        return cast("dict[str, SoenLayer]", dict(self.layers.items()))

    def connection(self, source: str, target: str) -> Connection:
        """The connection between two layers; KeyError if there is none."""
        return self.named_connections[_key(source, target)]

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(layer.rest(batch_size) for layer in self.named_layers().values())

    @property
    def recordable(self) -> tuple[str, ...]:
        layers = self.named_layers().items()
        return tuple(f"{n}/{t}" for n, layer in layers for t in ("s", *layer.trace_names))

    def activity_records(self) -> dict[str, str]:
        return {name: f"{name}/s" for name in list(self.layers)[1:]}

    @property
    def named_connections(self) -> dict[str, Connection]:
        """The connections by name, as in `0_to_1`."""
        return cast("dict[str, Connection]", dict(self.J.items()))

    def connection_weights(self) -> dict[str, Tensor]:
        return {
            f"J.{name}": connection.matrix()
            for name, connection in self.named_connections.items()
            if connection.learnable
        }

    def connections(self) -> tuple[NamedConnection, ...]:
        named = []
        for target, heard in self.sources.items():
            for source in heard:
                connection = self.connection(source, target)
                named.append(NamedConnection(source, target, connection.matrix(), connection.mask))
        return tuple(named)

    def project(self) -> None:
        for connection in self.named_connections.values():
            connection.project()

    @property
    def kept_by_callbacks(self) -> dict[str, str]:
        if any(connection.constrained for connection in self.named_connections.values()):
            return {"constraints of connections": "add the callback constraints"}
        return {}

    def forward(
        self,
        inputs: Tensor,
        state: tuple[Any, ...] | None = None,
        *,
        dt_ms: float,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        for name in record:
            if name not in self.recordable:
                raise ConfigError(
                    f"SOEN records no '{name}'. It can record: {', '.join(self.recordable)}."
                    + nearest(name, self.recordable)
                )
        before = self.initial_state(len(inputs)) if state is None else state
        run = _Run(self, dict(zip(self.layers, before, strict=True)), record)
        frames_TBN = inputs.flatten(2).transpose(0, 1)
        for names in self._blocks:
            if len(names) > 1 or (self._steps_all and run.s_TBN):
                run.in_steps(names, frames_TBN)
            else:
                run.whole(names[0], frames_TBN)
        after = tuple(run.states[name] for name in self.layers)
        outputs_TBN = run.s_TBN[list(self.layers)[-1]]
        return ModelOutput(outputs_TBN.transpose(0, 1), after, run.records)

    @property
    def _steps_all(self) -> bool:
        return self.simulation.evaluation in ("gauss_seidel", "jacobi")

    def _make_blocks(self) -> tuple[tuple[str, ...], ...]:
        """The layers in order; those that a back edge goes past, or from and to, in one block."""
        names = list(self.layers)
        place = {name: i for i, name in enumerate(names)}
        back = [
            (place[target], place[source])
            for target, heard in self.sources.items()
            for source in heard
            if place[source] > place[target]
        ]
        if back and self.simulation.evaluation == "layerwise":
            to, from_ = (names[i] for i in back[0])
            raise ValueError(
                f"evaluation: layerwise takes no back edges, and there is one from {from_} to "
                f"{to}; choose auto, gauss_seidel or jacobi"
            )
        if self._steps_all:
            return (names[0],), tuple(names[1:])
        blocks, first = [], 0
        while first < len(names):
            last = first
            for earlier, later in sorted(back):
                if first <= earlier <= last:
                    last = max(last, later)
            blocks.append(tuple(names[first : last + 1]))
            first = last + 1
        return tuple(blocks)


class _Run:
    """One forward pass: states and sequences as they come to be."""

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
        self._dt = model.dt().squeeze(0)
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
        """Run a layer over all steps; what it hears from has been."""
        internal = name in self._model.sources[name]
        if internal and self._noise[_key(name, name)].acts_on("j"):
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
        """Run layers together, one step of all after the other."""
        outside = {name: self._arriving(name, names, frames_TBN) for name in names}
        found: dict[str, list[Tensor]] = {}
        for t in range(len(frames_TBN)):
            before = dict(self.states)
            for name in names:
                heard = before if self._delays_all else self.states
                phi_BN = outside[name][t]
                for source in self._model.sources[name]:
                    if source in names:
                        phi_BN = phi_BN + self._sent(source, name, heard[source][0])
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
        """What a layer hears from outside its block, `[T, B, N]`."""
        sources = self._model.sources[name]
        if not sources:  # the inputs
            return frames_TBN
        sent = [self._sent(s, name, self.s_TBN[s]) for s in sources if s not in block]
        if sent:
            return functools.reduce(torch.add, sent)
        silence = frames_TBN.new_zeros(1, 1, self._layers[name].dim)
        return silence.expand(*frames_TBN.shape[:2], -1)

    def _sent(self, source: str, target: str, s: Tensor) -> Tensor:
        """What arrives over a connection of states `[B, N]` or `[T, B, N]`."""
        connection = self._model.connection(source, target)
        noise = self._noise[_key(source, target)]
        if noise.acts_on("j"):
            return connection(s, noise)
        return fold_time(connection, s) if s.ndim == 3 else connection(s)


def _key(source: str, target: str) -> str:
    """`0_to_1` from `layer0` and `layer1`."""
    return f"{source.removeprefix('layer')}_to_{target.removeprefix('layer')}"
