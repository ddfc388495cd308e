"""The architecture of a SOEN: layers with ids, and connections between them.

It is given in the config, in a file (`models/soen/files.py`), or in both: entries of the config
change those of the file with the same `id` (layers) or the same `from` and `to` (connections).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, cast

import torch
from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict, Field

from neuro.config.build import build
from neuro.errors import ConfigError, nearest
from neuro.layers.soen.base import SoenLayer
from neuro.layers.soen.cells import GRU, LSTM, RNN, LeakyGRU, MinGRU
from neuro.layers.soen.connection import Connection, Constraints
from neuro.layers.soen.connectivity import STRUCTURES, Structure
from neuro.layers.soen.dendrite import Dendrite, SquidReadout
from neuro.layers.soen.initial import INITIALS, Initial
from neuro.layers.soen.maps import InputLayer, Linear, Nonlinear, Scaling, Softmax
from neuro.layers.soen.multiplier import NOCC, WICC
from neuro.layers.soen.noise import NoiseLevels
from neuro.ops.dendrite import Solver

LAYERS: dict[str, type[SoenLayer]] = {
    "input": InputLayer,
    "dendrite": Dendrite,
    "readout": SquidReadout,
    "wicc": WICC,
    "nocc": NOCC,
    "linear": Linear,
    "scaling": Scaling,
    "nonlinear": Nonlinear,
    "softmax": Softmax,
    "rnn": RNN,
    "gru": GRU,
    "lstm": LSTM,
    "mingru": MinGRU,
    "leaky_gru": LeakyGRU,
}

Id = Annotated[int, Ge(0)]
Evaluation = Literal["auto", "layerwise", "gauss_seidel", "jacobi"]


class Entry(BaseModel):
    """Base of the parts of an architecture; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class LayerSpec(Entry):
    """A layer: `type` is one of LAYERS, or the dotted path of a user's SoenLayer.

    `params` are the constructor's arguments and `dim`, the number of nodes. If it is left out, the
    first layer has the width of the data, and the last one that of the targets.
    """

    id: Id
    type: str | None = None
    params: dict[str, Any] = {}


class ConnectionSpec(Entry):
    """A connection: `type` is one of STRUCTURES with its `params`, `init` one of INITIALS."""

    from_: Id = Field(alias="from")
    to: Id
    type: str | None = None
    params: dict[str, Any] = {}
    init: dict[str, Any] = {}
    constraints: Constraints | None = None
    learnable: bool | None = None


class Simulation(Entry):
    """How a network is simulated; see `models/soen/model.py`."""

    dt: Annotated[float, Gt(0)] = 37.0
    dt_learnable: bool = False
    substeps: Annotated[int, Ge(1)] = 1
    evaluation: Evaluation = "auto"
    solver: Solver = "euler"
    noise: NoiseLevels = NoiseLevels()
    perturb: NoiseLevels = NoiseLevels()
    noise_relative: bool = False
    noise_in_evaluation: bool = False


class Layout(NamedTuple):
    """Modules: layers by name, in order, and connections by (source, target)."""

    layers: dict[str, SoenLayer]
    connections: dict[tuple[str, str], Connection]


class Architecture(NamedTuple):
    """Specifications of layers and connections, as given in a file or config."""

    layers: tuple[LayerSpec, ...]
    connections: tuple[ConnectionSpec, ...]

    def changed(
        self, layers: Sequence[LayerSpec], connections: Sequence[ConnectionSpec]
    ) -> Architecture:
        """Change entries with the same ids, and append others. ConfigError for repeated ids."""
        changes = Architecture(tuple(layers), tuple(connections))
        repeats = [*self._repeats(), *changes._repeats()]
        if repeats:
            raise ConfigError(repeats)
        return Architecture(
            _merged(self.layers, layers, lambda layer: layer.id),
            _merged(self.connections, connections, lambda c: (c.from_, c.to)),
        )

    def build(self, inputs: int, outputs: int) -> Layout:
        """Make the modules, with random initial values. ConfigError lists all problems."""
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)
        widths = self._widths(inputs, outputs)
        connections = {
            (name_of(spec.from_), name_of(spec.to)): _connection(spec, widths)
            for spec in self.connections
        }
        layers = {}
        for spec in self.layers:
            name, dim = name_of(spec.id), widths[spec.id]
            drives = sum(
                (c.existing().sum(0) for (source, _), c in connections.items() if source == name),
                torch.zeros(dim),
            )
            layers[name] = _layer(spec, dim, tuple(int(count) for count in drives))
        return Layout(layers, connections)

    def _problems(self) -> Iterator[str]:
        ids = [layer.id for layer in self.layers]
        if len(ids) < 2:
            yield (
                "model.layers: give at least two, of the inputs and of the outputs, or a file "
                "(model.architecture)."
            )
            return
        if self.layers[0].type != "input":
            yield f"model.layers: the first layer is of type {self.layers[0].type}; expected input."
        for layer in self.layers:
            where = f"model.layers: layer {layer.id}"
            if layer.type is None:
                yield f"{where} has no type. Allowed: {', '.join(LAYERS)}."
            elif layer.type not in LAYERS and "." not in layer.type:
                yield (
                    f"{where}: there is no type '{layer.type}'. Allowed: {', '.join(LAYERS)}, or "
                    f"the dotted path of a SoenLayer.{nearest(layer.type, LAYERS)}"
                )
            elif layer.type == "input" and layer.id != ids[0]:
                yield f"{where} is of type input, which only the first layer can be."
        yield from self._connection_problems(ids)

    def _repeats(self) -> Iterator[str]:
        ids = [layer.id for layer in self.layers]
        for repeated in sorted({i for i in ids if ids.count(i) > 1}):
            yield f"model.layers: the id {repeated} is given twice."
        pairs = [(c.from_, c.to) for c in self.connections]
        for repeated_pair in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
            yield "model.connections: from {} to {} is given twice.".format(*repeated_pair)

    def _connection_problems(self, ids: Sequence[int]) -> Iterator[str]:
        for c in self.connections:
            where = f"model.connections: from {c.from_} to {c.to}"
            for end in (c.from_, c.to):
                if end not in ids:
                    yield f"{where}: there is no layer {end}. Layers: {', '.join(map(str, ids))}."
            if c.to == ids[0]:
                yield f"{where}: the first layer holds the inputs and receives nothing."
            if c.type is None:
                yield f"{where} has no type. Allowed: {', '.join(STRUCTURES)}."
            elif c.type not in STRUCTURES:
                yield (
                    f"{where}: there is no type '{c.type}'. Allowed: {', '.join(STRUCTURES)}."
                    + nearest(c.type, STRUCTURES)
                )
        for i in ids[1:]:
            if not any(c.to == i and c.from_ != i for c in self.connections):
                yield f"model.connections: layer {i} receives nothing from another layer."
        for i in ids[:-1]:
            if not any(c.from_ == i and c.to != i for c in self.connections):
                yield f"model.connections: layer {i} leads to no other layer."

    def _widths(self, inputs: int, outputs: int) -> dict[int, int]:
        """Nodes of each layer by its id. ConfigError where one is missing or does not fit."""
        widths, problems = {}, []
        given = {self.layers[0].id: inputs, self.layers[-1].id: outputs}
        ends = {self.layers[0].id: "the data's frames", self.layers[-1].id: "the targets"}
        for layer in self.layers:
            where = f"model.layers: layer {layer.id}: params.dim"
            dim = layer.params.get("dim")
            needed = given.get(layer.id)
            if dim is None and needed is None:
                problems.append(f"{where} is missing; give its number of nodes.")
            elif dim is not None and (type(dim) is not int or dim < 1):
                problems.append(f"{where}: got {dim!r}; expected a number of nodes, at least 1.")
            elif None not in (dim, needed) and dim != needed:
                problems.append(
                    f"{where}: got {dim}; {ends[layer.id]} need {needed}. Leave it out, or change "
                    "the data."
                )
            else:
                widths[layer.id] = dim or cast("int", needed)
        if problems:
            raise ConfigError(problems)
        return widths


def name_of(layer_id: int) -> str:
    """Name of a layer in records, parameters and plots."""
    return f"layer{layer_id}"


def connection_name(source: str, target: str) -> str:
    """`0_to_1` from `layer0` and `layer1`."""
    return f"{source.removeprefix('layer')}_to_{target.removeprefix('layer')}"


EntryT = TypeVar("EntryT", LayerSpec, ConnectionSpec)


def _merged(
    entries: Sequence[EntryT], changes: Sequence[EntryT], key: Callable[[EntryT], Hashable]
) -> tuple[EntryT, ...]:
    """Entries with those of the same key changed, and others appended."""
    merged = {key(entry): entry for entry in entries}
    for change in changes:
        before = merged.get(key(change))
        merged[key(change)] = change if before is None else _changed(before, change)
    return tuple(merged.values())


def _changed(before: EntryT, change: EntryT) -> EntryT:
    """An entry with the given values of a change; mappings are merged.

    If `type` changes, `params` other than `dim` are dropped, since they belong to the former type;
    so are the values of another `init.kind`.
    """
    values = {}
    for name in change.model_fields_set:
        old, new = getattr(before, name), getattr(change, name)
        if name == "params" and change.type not in (None, before.type):
            old = {key: value for key, value in old.items() if key == "dim"}
        if name == "init" and new.get("kind", old.get("kind")) != old.get("kind"):
            old = {}
        values[name] = {**old, **new} if isinstance(new, dict) else new
    if change.type not in (None, before.type):
        values.setdefault("params", {k: v for k, v in before.params.items() if k == "dim"})
    return before.model_copy(update=values)


def _layer(spec: LayerSpec, dim: int, drives: tuple[int, ...]) -> SoenLayer:
    """Make a layer; `drives` are the numbers of connections from each of its nodes."""
    assert spec.type is not None
    params = {name: value for name, value in spec.params.items() if name != "dim"}
    return _component(
        LAYERS.get(spec.type, spec.type),
        SoenLayer,
        params,
        f"model.layers: layer {spec.id}: params",
        dim=dim,
        drives=drives,
    )


def _connection(spec: ConnectionSpec, widths: Mapping[int, int]) -> Connection:
    """Make a connection between layers of the given widths."""
    assert spec.type is not None
    where = f"model.connections: from {spec.from_} to {spec.to}"
    structure: Structure = _component(
        STRUCTURES[spec.type],
        Structure,
        spec.params,
        f"{where}: params",
    )
    kind = spec.init.get("kind", "uniform")
    if kind not in INITIALS:
        raise ConfigError(
            f"{where}: init.kind: got {kind!r}. Allowed: {', '.join(INITIALS)}."
            + nearest(str(kind), INITIALS)
        )
    values = {name: value for name, value in spec.init.items() if name != "kind"}
    initial: Initial = _component(INITIALS[kind], Initial, values, f"{where}: init")
    try:
        return Connection(
            widths[spec.to],
            widths[spec.from_],
            structure,
            initial,
            spec.constraints or Constraints(),
            internal=spec.from_ == spec.to,
            learnable=spec.learnable is not False,
        )
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


T = TypeVar("T")


def _component(
    target: str | type[T], contract: type[T], params: Mapping[str, Any], path: str, **supplied: Any
) -> T:
    """Build an object of a class, or of the dotted path of one, from checked parameters."""
    if not isinstance(target, str):
        target = f"{target.__module__}.{target.__qualname__}"
    return build({**params, "_target_": target}, contract, path, **supplied)
