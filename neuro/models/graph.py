"""The layer graph of a network: a typed description for hardware targets and exporters.

It is a snapshot of a model in evaluation mode, of the nodes in `graph_nodes.py`. A graph checks its
edges on construction, so that an existing graph is valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from neuro.errors import ExportError
from neuro.models.graph_nodes import Array as Array
from neuro.models.graph_nodes import Conv2dNode as Conv2dNode
from neuro.models.graph_nodes import CubaLIFNode as CubaLIFNode
from neuro.models.graph_nodes import DenseNode as DenseNode
from neuro.models.graph_nodes import DualLIFNode as DualLIFNode
from neuro.models.graph_nodes import FlattenNode as FlattenNode
from neuro.models.graph_nodes import InputNode as InputNode
from neuro.models.graph_nodes import LayerNode as LayerNode
from neuro.models.graph_nodes import LIFNode as LIFNode
from neuro.models.graph_nodes import NeuronNode as NeuronNode
from neuro.models.graph_nodes import ReadoutNode as ReadoutNode
from neuro.models.graph_nodes import Shape as Shape
from neuro.models.graph_nodes import SynapseNode as SynapseNode
from neuro.models.graph_nodes import TimeConstant as TimeConstant
from neuro.models.graph_nodes import convolved as convolved


class Edge(NamedTuple):
    """A connection from the output of a node to an input port of another.

    `recurrent`: it carries the output of the step before, zero at the first step.
    """

    source: str
    target: str
    port: str = "input"
    recurrent: bool = False


@dataclass(frozen=True, eq=False)
class LayerGraph:
    """Nodes by name, in the order of computation, and the edges between them.

    Several edges into one port are summed. Recurrent edges lead from neurons to a synapse back onto
    the same neurons; all others lead forward. ExportError for other edges, for edges that are
    duplicate or do not fit their nodes, and for input ports without an edge.
    """

    nodes: Mapping[str, LayerNode]
    edges: tuple[Edge, ...]

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ExportError("a layer graph has at least one node; got none.")
        order = {name: i for i, name in enumerate(self.nodes)}
        for i, edge in enumerate(self.edges):
            if edge in self.edges[:i]:
                raise ExportError(f"edge {_text(edge)} is given twice; double the weights instead.")
            for end in (edge.source, edge.target):
                if end not in order:
                    raise ExportError(f"edge {_text(edge)}: there is no node '{end}'.")
            # Without recurrent edges there are no cycles; later passes need no sorting.
            if not edge.recurrent and order[edge.source] >= order[edge.target]:
                raise ExportError(
                    f"edge {_text(edge)} goes backwards; only synapses of a layer to itself do, by "
                    "an edge with recurrent=True."
                )
            source, target = self.nodes[edge.source], self.nodes[edge.target]
            if edge.port not in target.ports:
                raise ExportError(
                    f"edge {_text(edge)}: {type(target).__name__} has the ports "
                    f"{', '.join(target.ports) or 'none'}."
                )
            if source.output_shape != target.input_shape:
                raise ExportError(
                    f"edge {_text(edge)}: '{edge.source}' gives {list(source.output_shape)}, "
                    f"'{edge.target}' takes {list(target.input_shape)}."
                )
        for edge in self.edges:
            if edge.recurrent:
                self._check_recurrence(edge)
        reached = {(edge.target, edge.port) for edge in self.edges}
        for name, node in self.nodes.items():
            for port in node.ports:
                if (name, port) not in reached:
                    raise ExportError(f"node '{name}': nothing is connected to its port '{port}'.")

    def _check_recurrence(self, edge: Edge) -> None:
        """ExportError unless the edge leads to a synapse whose only target is the edge's source."""
        source, synapse = self.nodes[edge.source], self.nodes[edge.target]
        ends = {e.target for e in self.edges if e.source == edge.target}
        others = [e for e in self.edges if e.target == edge.target and e != edge]
        if (
            not isinstance(source, NeuronNode)
            or not isinstance(synapse, SynapseNode)
            or ends != {edge.source}
            or others
        ):
            raise ExportError(
                f"edge {_text(edge)} is recurrent; it must lead from neurons to a synapse of its "
                f"own that leads back to the same neurons, here to {', '.join(ends) or 'nothing'}."
            )

    def sources(self, target: str, port: str = "input") -> tuple[str, ...]:
        """Names of the nodes connected to a port, in the order of the edges."""
        return tuple(e.source for e in self.edges if e.target == target and e.port == port)

    def is_recurrent(self, synapse: str) -> bool:
        """Whether a synapse leads from a layer to itself."""
        return any(e.recurrent and e.target == synapse for e in self.edges)


def _text(edge: Edge) -> str:
    return f"{edge.source} -> {edge.target}.{edge.port}"
