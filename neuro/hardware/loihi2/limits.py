"""Limits of a Loihi 2 chip and its synapses, with source and quality grade of each.

Limits of neuron registers are in `registers.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from neuro.errors import ConfigError, ExportError
from neuro.hardware.loihi2.integer import IntegerSynapse

_INTEL = "Intel, Loihi 2 technology brief (2021)"
_PILOTNET = "Intel's mapping of PilotNet, lava-dl, netx/pilotnet_snn/benchmark.ipynb"
_PUBLISHED = "published by the maker"
_INFERRED = "inferred from word counts that the maker published"


def _limit(value: int, source: str, grade: str) -> Any:
    return field(default=value, metadata={"source": source, "grade": grade})


@dataclass(frozen=True)
class ChipLimits:
    """Capacity of a chip and its cores; `neurons_per_core` counts compartments.

    ConfigError for a value below 1.
    """

    chips: int = _limit(1, "this project: the default run asks for one chip", "chosen")
    cores_per_chip: int = _limit(128, _INTEL, f"{_PUBLISHED}; 120 to 128 are reported in use")
    neurons_per_core: int = _limit(8192, _INTEL, _PUBLISHED)
    core_memory_bytes: int = _limit(192 * 1024, _INTEL, _PUBLISHED)
    synapse_words_per_core: int = _limit(12_000, _PILOTNET, "the compiler's limit, in its log")
    synapse_word_bits: int = _limit(64, _PILOTNET, _INFERRED)
    synapse_index_bits: int = _limit(8, _PILOTNET, _INFERRED)
    synapse_delay_bits: int = _limit(6, "lava-nc 0.10, DelayDense", "documented")
    weight_bits: int = _limit(8, "lava-nc 0.10, Dense", "documented")
    synaptic_sum_bits: int = _limit(16, "lava-nc 0.10, PyLifModelBitAcc", "documented")
    graded_spike_bits: int = _limit(24, "lava-nc 0.10, ports (the chip: 32)", "documented")

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1; got {value}.")

    def provenance(self) -> dict[str, dict[str, Any]]:
        """Value, source and grade of every limit, as plain JSON values."""
        return {f.name: {"value": getattr(self, f.name), **f.metadata} for f in fields(self)}


def check_weights(name: str, synapse: IntegerSynapse, limits: ChipLimits) -> None:
    """Check that the chip stores the weights onto layer `name` unchanged. ExportError if not.

    Weights of one sign have all bits for |w|; those of mixed signs have twice the range in even
    steps (lava-nc 0.10, `truncate_weights`).
    """
    unity = 1 << limits.weight_bits
    low, high = int(synapse.weight.min()), int(synapse.weight.max())
    mixed = low < 0 < high
    lowest, highest = (-unity, unity - 1) if mixed else (1 - unity, unity - 1)
    if low < lowest or high > highest:
        raise ExportError(
            f"layer '{name}': weights from '{synapse.source}' span {low:,} to {high:,}; "
            f"{limits.weight_bits} bits hold {lowest:,} to {highest:,}. Use a finer weight scale."
        )
    if mixed and (synapse.weight & 1).any():
        raise ExportError(
            f"layer '{name}': weights from '{synapse.source}' have both signs and are odd; "
            f"{limits.weight_bits} bits of mixed sign hold even weights. Round them to even ones."
        )
