"""Networks of superconducting dendrites, and of other layers in the same architecture.

Layers are evaluated in the order in which they are listed. A connection to a later layer acts in
the same step, a connection to an earlier layer (a back edge) or within a layer one step later. A
layer outside all loops processes a whole sequence in one call; the layers of a loop are evaluated
together, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Annotated, Any, cast

from annotated_types import Ge, Gt, MinLen
from torch import Tensor, nn

from neuro.data.base import TaskSpec
from neuro.layers.soen.base import NodeParameter, SoenLayer
from neuro.layers.soen.connection import Connection
from neuro.layers.soen.dendrite import Dendrite
from neuro.layers.soen.maps import Map
from neuro.layers.soen.noise import PLACES, NoiseLevels
from neuro.models.base import CoreModel, ModelOutput
from neuro.models.capabilities import Connected, Constrained, Layered, Noisy, Observable, Portable
from neuro.models.capabilities import Connection as NamedConnection
from neuro.models.inputs import check_sequences
from neuro.models.soen.architecture import (
    Architecture,
    ConnectionSpec,
    Evaluation,
    LayerSpec,
    Simulation,
    connection_name,
)
from neuro.models.soen.files import Source, describe, read_source
from neuro.models.soen.forward import ForwardPass, hold_frames
from neuro.models.weights import load_weights
from neuro.ops.dendrite import Solver
from neuro.ops.sources import depends_on_state


class SOEN(CoreModel, Layered, Connected, Noisy, Constrained, Observable, Portable):
    """A network of `layers` and `connections`, see `models/soen/architecture.py`.

    - `layers`, `connections`: with an `architecture` file they change the file's entries. A model
      file (`models/file.py`) gives its architecture, with `load_exact_state` its weights as well;
      else weights are initialised at random
    - The flattened frames of the data are the states of the first layer; the states of the last
      layer are the outputs.
    - `dt`: the step of every frame in units of 1 / omega_c, independent of the time between frames;
      with `substeps`, a frame is held for that many steps of dt / substeps, and the state after the
      last one is used
    - `noise`, `perturb`: act in training, with `noise_in_evaluation` always
    - `evaluation`: jacobi delays all connections except those of the inputs by a step; gauss_seidel
      steps through all layers even where layerwise evaluation, which needs a network without back
      edges, would give the same result faster

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
        substeps: Annotated[int, Ge(1)] | None = None,
        evaluation: Evaluation | None = None,
        solver: Solver | None = None,
        noise: NoiseLevels | None = None,
        perturb: NoiseLevels | None = None,
        noise_relative: bool | None = None,
        noise_in_evaluation: bool | None = None,
    ):
        super().__init__()
        check_sequences(spec, time_step=False)
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
            "substeps": substeps,
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
        made = self.architecture.build(prod(spec.inputs.shape), spec.outputs)
        self.layers = nn.ModuleDict(made.layers)
        self.J = nn.ModuleDict(
            {connection_name(*ends): made.connections[ends] for ends in made.connections}
        )
        #: source layers of each layer
        self.sources = {
            name: tuple(source for source, target in made.connections if target == name)
            for name in made.layers
        }
        self._blocks = self._make_blocks()
        self._check_solver()
        self._check_dynamics()
        self.dt = NodeParameter(
            "dt", self.simulation.dt, 1, learnable=self.simulation.dt_learnable, positive=True
        )
        for kind in ("noise", "perturb"):
            for place in PLACES:
                level = getattr(getattr(self.simulation, kind), place)
                if level > 0 and f"{kind}.{place}" not in self.noise_levels:
                    raise ValueError(f"{kind}.{place}: no layer has one; remove it, or set it to 0")
        if load_exact_state and source.weights is not None:
            load_weights(self, source.weights, str(architecture))

    @property
    def noise_levels(self) -> dict[str, float]:
        places = {"j", *(p for layer in self.named_layers().values() for p in layer.noisy_places)}
        return {
            f"{kind}.{place}": getattr(getattr(self.simulation, kind), place)
            for kind in ("noise", "perturb")
            for place in PLACES
            if place in places
        }

    def set_noise(self, levels: Mapping[str, float]) -> None:
        for name, level in levels.items():
            kind, _, place = name.partition(".")
            changed = replace(getattr(self.simulation, kind), **{place: level})
            self.simulation = self.simulation.model_copy(update={kind: changed})

    def portable_config(self, node: Mapping[str, Any]) -> dict[str, Any]:
        described = describe(self.architecture, self.simulation)
        return {**node, "architecture": None, "load_exact_state": False, **described}

    def named_layers(self) -> dict[str, SoenLayer]:
        """The layers by name, from the inputs to the outputs."""
        return cast("dict[str, SoenLayer]", dict(self.layers.items()))

    def connection(self, source: str, target: str) -> Connection:
        """The connection between two layers; KeyError if there is none."""
        return self.named_connections[connection_name(source, target)]

    def initial_state(self, batch_size: int) -> tuple[Any, ...]:
        return tuple(layer.initial_state(batch_size) for layer in self.named_layers().values())

    @property
    def recordable(self) -> tuple[str, ...]:
        layers = self.named_layers().items()
        return tuple(f"{n}/{t}" for n, layer in layers for t in ("s", *layer.trace_names))

    def activity_records(self) -> dict[str, str]:
        return {name: f"{name}/s" for name in list(self.layers)[1:]}

    def activity_limits(self) -> dict[str, Tensor]:
        limits = {name: layer.limit() for name, layer in self.named_layers().items()}
        return {name: limit for name, limit in limits.items() if limit is not None}

    def statistics(self) -> dict[str, Tensor]:
        parameters = {
            f"{name}/{what}": module
            for name, layer in self.named_layers().items()
            for what, module in layer.named_modules()
            if isinstance(module, NodeParameter)
        }
        watched = {**parameters, "dt": self.dt}
        return {n: m().detach() for n, m in watched.items() if list(m.parameters())}

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
        for target, sources in self.sources.items():
            for source in sources:
                connection = self.connection(source, target)
                named.append(NamedConnection(source, target, connection.matrix(), connection.mask))
        return tuple(named)

    def project(self) -> None:
        for connection in self.named_connections.values():
            connection.project()

    @property
    def constrained(self) -> tuple[str, ...]:
        connections = self.named_connections.items()
        return tuple(f"J.{name}" for name, connection in connections if connection.constrained)

    def forward(
        self,
        inputs: Tensor,
        state: tuple[Any, ...] | None = None,
        *,
        dt_ms: float | None,
        record: Sequence[str] = (),
    ) -> ModelOutput:
        self.check_records(record)
        before = self.initial_state(len(inputs)) if state is None else state
        run = ForwardPass(self, dict(zip(self.layers, before, strict=True)), record)
        substeps = self.simulation.substeps
        frames_TBN = hold_frames(inputs.flatten(2).transpose(0, 1), substeps)
        for names in self._blocks:
            if len(names) > 1 or (self._steps_all and run.s_TBN):
                run.in_steps(names, frames_TBN)
            else:
                run.whole(names[0], frames_TBN)
        after = tuple(run.states[name] for name in self.layers)
        ends = slice(substeps - 1, None, substeps)
        outputs_TBN = run.s_TBN[list(self.layers)[-1]][ends]
        records = {name: trace[ends] for name, trace in run.records.items()}
        return ModelOutput(outputs_TBN.transpose(0, 1), after, records)

    def _check_dynamics(self) -> None:
        """ValueError for settings of time steps that do not fit the layers."""
        layers = self.named_layers()
        if self.simulation.dt_learnable and not any(x.physical for x in layers.values()):
            raise ValueError("dt_learnable: no layer has dynamics in steps of dt")
        for name, layer in layers.items():
            if self.simulation.substeps > 1 and not layer.physical and not isinstance(layer, Map):
                raise ValueError(
                    f"substeps: {name} of type {type(layer).__name__} has steps but no time, and "
                    "would take several per frame; set substeps=1"
                )

    def _check_solver(self) -> None:
        """ValueError unless `solver` can integrate all dendrites that get whole sequences."""
        solver = self.simulation.solver
        if solver == "euler":
            return
        whole = [] if self._steps_all else [b[0] for b in self._blocks if len(b) == 1]
        layers = self.named_layers()
        dendrites = {n: d for n in whole if isinstance(d := layers[n], Dendrite)}
        if not dendrites:
            raise ValueError(
                f"solver: {solver} integrates whole sequences, and no dendrite is evaluated "
                "layerwise; choose euler"
            )
        for name, layer in dendrites.items():
            if name in self.sources[name]:
                raise ValueError(
                    f"solver: {solver} takes no internal connections, and {name} has one; choose "
                    "euler"
                )
            if depends_on_state(layer.source) != (solver == "newton"):
                kind, other = ("with", "scan") if solver == "newton" else ("without", "newton")
                raise ValueError(
                    f"solver: {solver} needs sources {kind} a squid current, and {name} has "
                    f"{layer.source}; choose euler or {other}"
                )

    @property
    def _steps_all(self) -> bool:
        """True if all layers are evaluated together, step by step."""
        return self.simulation.evaluation in ("gauss_seidel", "jacobi")

    def _make_blocks(self) -> tuple[tuple[str, ...], ...]:
        """Layers in order, in blocks; a block holds all layers that back edges span."""
        names = list(self.layers)
        place = {name: i for i, name in enumerate(names)}
        back = [
            (place[target], place[source])
            for target, sources in self.sources.items()
            for source in sources
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
