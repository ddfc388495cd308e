"""Placement of a network on cores, and their utilisation; `mapper.py` defines what is counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal, NamedTuple

from neuro.hardware.loihi2.limits import ChipLimits


class Axons(NamedTuple):
    """Neurons `[first, stop)` of a source layer (or of "input") with synapses in a core."""

    source: str
    first: int
    stop: int


@dataclass(frozen=True)
class Core:
    """Content of one core: the neurons `[first, stop)` of a flattened layer.

    `synapses` is the number of weights in its memory, so the kernel of a convolution counts once.
    The three utilisations are fractions of the core's limits.
    """

    index: int
    chip: int
    layer: str
    first: int
    stop: int
    compartments: int
    synapses: int
    synapse_words: int
    memory_bytes: int
    neuron_utilisation: float
    synapse_utilisation: float
    memory_utilisation: float
    axons: tuple[Axons, ...]

    @property
    def neurons(self) -> int:
        return self.stop - self.first


@dataclass(frozen=True)
class LayerMap:
    """Cores of a layer; `largest_sum` bounds the |synaptic sum| of a compartment at one step."""

    name: str
    connection: Literal["convolution", "dense"]
    neurons: int
    compartments: int
    largest_sum: int
    cores: tuple[Core, ...]


@dataclass(frozen=True)
class CoreMap:
    """Cores of a network, in the order of its layers, the readout last.

    `pipeline_steps` is the delay of the readout's sums behind the input, in steps.
    """

    limits: ChipLimits
    layers: tuple[LayerMap, ...]
    pipeline_steps: int

    @property
    def cores(self) -> tuple[Core, ...]:
        return tuple(core for layer in self.layers for core in layer.cores)

    @property
    def chips(self) -> int:
        return ceil(len(self.cores) / self.limits.cores_per_chip)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for layers whose sums can exceed the chip's accumulator.

        They are no errors because Lava does not enforce the width of the accumulator.
        """
        bits = self.limits.synaptic_sum_bits
        highest = (1 << (bits - 1)) - 1
        return tuple(
            f"layer '{layer.name}': a synaptic sum can reach {layer.largest_sum:,}, beyond the "
            f"{bits} bits ({highest:,}) of a chip's accumulator; Lava does not enforce them."
            for layer in self.layers
            if layer.largest_sum > highest
        )

    def as_json(self) -> dict[str, Any]:
        """The map as plain JSON values; the neurons of a core are `[first, stop)`."""
        return {
            "cores": len(self.cores),
            "chips": self.chips,
            "neurons": sum(layer.neurons for layer in self.layers),
            "synapses": sum(core.synapses for core in self.cores),
            "memory_bytes": sum(core.memory_bytes for core in self.cores),
            # see `mapper.py` for the comparison with Intel's compiler
            "model": "lower bound: on PilotNet 27 cores where Intel's compiler takes 61",
            "warnings": list(self.warnings),
            "limits": self.limits.provenance(),
            "layers": [
                {**asdict(layer), "cores": [_core_json(core) for core in layer.cores]}
                for layer in self.layers
            ],
        }


def _core_json(core: Core) -> dict[str, Any]:
    values = asdict(core)
    del values["layer"]
    return {**values, "neurons": core.neurons, "axons": [list(axons) for axons in core.axons]}
