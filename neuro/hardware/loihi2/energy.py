"""Estimates of latency and energy of one inference on Loihi 2, as ranges.

Energies per operation of Loihi 2 are not published, and Lava's simulator does not measure energy.
Exact counts are therefore multiplied by the constants of three models, and ranges span them:

- Loihi 1, Davies et al. 2018: smallest energy of each operation, pre-silicon;
- Loihi 1, SANA-FE: fitted by its authors to measured energy;
- Loihi 2, PilotNet: measured by Intel on another network, scaled by compartments times steps.

A step takes as long as on its busiest core. The models of its time are the synaptic operations of
that core at Loihi 1's speed (SANA-FE; without neuron updates and synchronisation), PilotNet's
measured step time scaled by the neurons of the busiest core, and that step time as measured. Static
power is that of PilotNet's chip: all of it as upper bound, the fraction of its cores in use as
lower bound.

The number of hops depends on the placement. Cores are assumed to be placed in order, four to a
tile, tiles in rows of eight; frames enter at the first core, and the spikes of a layer are spread
evenly over its cores. Links between chips, axon tables and the host have no published constants and
are not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from neuro.hardware.loihi2.core_map import Axons, Core, CoreMap, LayerMap
from neuro.hardware.loihi2.counts import READOUT, LayerCounts

_DAVIES = "Davies et al. 2018, Loihi, Table 2"
_SANA_FE = "SANA-FE (Boyle et al.), model of Loihi 1"
_PILOTNET = "Intel, PilotNet LIF on one Loihi 2 chip, lava-dl, netx/pilotnet_snn/benchmark.ipynb"
_PRE_SILICON = "Loihi 1, pre-silicon at 0.75 V"
_FITTED = "Loihi 1, fitted by its authors, energy within 12 %"
_MEASURED = "measured by Intel on another network"
_CHOSEN = "Loihi 1's mesh; the placement on Loihi 2 is not public"


@dataclass(frozen=True)
class Constant:
    """A physical constant with its unit, source and quality grade."""

    value: float
    unit: str
    source: str
    grade: str


CONSTANTS: dict[str, Constant] = {
    "davies_synaptic_operation": Constant(23.6, "pJ", _DAVIES, f"{_PRE_SILICON}; minimum"),
    "davies_update_active": Constant(81.0, "pJ", _DAVIES, _PRE_SILICON),
    "davies_update_inactive": Constant(52.0, "pJ", _DAVIES, _PRE_SILICON),
    "davies_spike_within_tile": Constant(1.7, "pJ", _DAVIES, _PRE_SILICON),
    "davies_hop_east_west": Constant(3.0, "pJ", _DAVIES, _PRE_SILICON),
    "davies_hop_north_south": Constant(4.0, "pJ", _DAVIES, _PRE_SILICON),
    "sana_fe_synapse_dense": Constant(35.5, "pJ", _SANA_FE, _FITTED),
    "sana_fe_synapse_convolution": Constant(24.0, "pJ", _SANA_FE, _FITTED),
    "sana_fe_neuron_access": Constant(51.2, "pJ", _SANA_FE, _FITTED),
    "sana_fe_neuron_update": Constant(21.6, "pJ", _SANA_FE, _FITTED),
    "sana_fe_spike_out": Constant(69.3, "pJ", _SANA_FE, _FITTED),
    "sana_fe_synapse_dense_time": Constant(3.8, "ns", _SANA_FE, _FITTED),
    "sana_fe_synapse_convolution_time": Constant(3.1, "ns", _SANA_FE, _FITTED),
    "pilotnet_step_time": Constant(152.9, "us", _PILOTNET, _MEASURED),
    "pilotnet_power": Constant(0.679, "W", _PILOTNET, _MEASURED),
    "pilotnet_static_power": Constant(0.232, "W", _PILOTNET, _MEASURED),
    "pilotnet_cores": Constant(74, "cores", _PILOTNET, _MEASURED),
    "pilotnet_neurons": Constant(158_509, "neurons", _PILOTNET, _MEASURED),
    "pilotnet_neurons_of_busiest_core": Constant(3168, "neurons", _PILOTNET, _MEASURED),
    "cores_per_tile": Constant(4, "cores", _DAVIES, _CHOSEN),
    "tiles_per_row": Constant(8, "tiles", _DAVIES, _CHOSEN),
}


class Range(NamedTuple):
    """Lowest and highest estimate."""

    low: float
    high: float


class Events(NamedTuple):
    """Counts per inference of a layer, or their sums over a network.

    updates_active, updates_inactive: updates of compartments with and without a change of state.
    messages: spikes times the number of cores that each is sent to. hops: of messages to this
    layer, between tiles.
    """

    synaptic_operations: float = 0.0
    updates_active: float = 0.0
    updates_inactive: float = 0.0
    spikes: float = 0.0
    messages: float = 0.0
    hops_east_west: float = 0.0
    hops_north_south: float = 0.0

    def plus(self, other: Events) -> Events:
        """Sum of both; the operator + of a tuple would concatenate."""
        return Events(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Estimate:
    """Estimate for a single inference on the chip; mappings have one value per model.

    `latency_us` includes the steps by which the readout lags behind the input; `energy_uj` is the
    sum of dynamic and static energy.
    """

    layers: dict[str, Events]
    latency_steps: float
    step_time_us: dict[str, float]
    latency_us: Range
    dynamic_energy_uj: dict[str, float]
    static_power_w: Range
    static_energy_uj: Range
    energy_uj: Range
    notes: tuple[str, ...]

    @property
    def events(self) -> Events:
        """Sum over all layers."""
        total = Events()
        for events in self.layers.values():
            total = total.plus(events)
        return total

    def as_json(self) -> dict[str, Any]:
        """The estimate as plain JSON values, with all constants; ranges are [low, high]."""
        return {
            "grade": "estimate",
            "notes": list(self.notes),
            "latency_steps": self.latency_steps,
            "step_time_us": self.step_time_us,
            "latency_us": list(self.latency_us),
            "dynamic_energy_uj": self.dynamic_energy_uj,
            "static_power_w": list(self.static_power_w),
            "static_energy_uj": list(self.static_energy_uj),
            "energy_uj": list(self.energy_uj),
            "events": self.events._asdict(),
            "layers": {name: events._asdict() for name, events in self.layers.items()},
            "constants": {name: asdict(constant) for name, constant in CONSTANTS.items()},
        }


def estimate(core_map: CoreMap, counts: Sequence[LayerCounts]) -> Estimate:
    """Estimate latency and energy of one inference of a mapped network.

    counts: mean counts of every layer of the map, the readout included.
    """
    by_name = {layer.name: layer for layer in counts}
    assert by_name.keys() == {layer.name for layer in core_map.layers}, "one count for each layer"
    steps = max(layer.steps for layer in counts)
    latency_steps = steps + core_map.pipeline_steps
    events = {m.name: _events(m, core_map, by_name) for m in core_map.layers}

    step_time_us = _step_time_us(core_map, by_name)
    # for a single inference, so the delay of the layers is included
    latency_us = Range(*(f(step_time_us.values()) * latency_steps for f in (min, max)))

    dynamic_energy_uj = {
        "loihi1_davies_2018": sum(map(_davies_pj, events.values())) * 1e-6,
        "loihi1_sana_fe": sum(_sana_fe_pj(m, events[m.name]) for m in core_map.layers) * 1e-6,
        "loihi2_pilotnet_scaled": _pilotnet_uj(core_map, by_name),
    }
    static_w = _value("pilotnet_static_power")
    used = min(1.0, len(core_map.cores) / _value("pilotnet_cores"))
    static_power_w = Range(static_w * used, static_w * core_map.chips)
    # watts times microseconds are microjoules
    static_energy_uj = Range(
        static_power_w.low * latency_us.low, static_power_w.high * latency_us.high
    )
    energy_uj = Range(
        min(dynamic_energy_uj.values()) + static_energy_uj.low,
        max(dynamic_energy_uj.values()) + static_energy_uj.high,
    )
    notes = (
        "an estimate: counts are exact, energy and time per operation are those of Loihi 1 or of "
        "another network on Loihi 2; no table of energies per operation of Loihi 2 is published",
        "without links between chips, axon tables and the host, which have no published constants",
    )
    return Estimate(
        layers=events,
        latency_steps=latency_steps,
        step_time_us=step_time_us,
        latency_us=latency_us,
        dynamic_energy_uj=dynamic_energy_uj,
        static_power_w=static_power_w,
        static_energy_uj=static_energy_uj,
        energy_uj=energy_uj,
        notes=notes,
    )


def _value(constant: str) -> float:
    return CONSTANTS[constant].value


def _events(layer: LayerMap, core_map: CoreMap, counts: dict[str, LayerCounts]) -> Events:
    count = counts[layer.name]
    updates = layer.compartments * count.steps
    active = min(count.neuron_updates, updates)
    messages = east_west = north_south = 0.0
    maps = {m.name: m for m in core_map.layers}
    for core in layer.cores:
        for axons in core.axons:
            sent = _sent(axons, layer, counts, maps)
            # frames enter at the first core
            origins = maps[axons.source].cores if axons.source in maps else core_map.cores[:1]
            neurons = sum(origin.neurons for origin in origins)
            messages += sent
            for origin in origins:
                part = sent * origin.neurons / neurons
                columns, rows = _distance(origin, core, core_map.limits.cores_per_chip)
                east_west += part * columns
                north_south += part * rows
    return Events(
        synaptic_operations=count.synaptic_macs + count.synaptic_acs,
        updates_active=active,
        updates_inactive=updates - active,
        spikes=count.spikes,
        messages=messages,
        hops_east_west=east_west,
        hops_north_south=north_south,
    )


def _sent(
    axons: Axons, layer: LayerMap, counts: dict[str, LayerCounts], maps: dict[str, LayerMap]
) -> float:
    """Spikes (or graded values) that reach a core over these axons."""
    if axons.source in maps:
        return counts[axons.source].spikes * (axons.stop - axons.first) / maps[axons.source].neurons
    # The input has no counts of its own: its values are those that no other layer has sent.
    sources = {a.source for core in layer.cores for a in core.axons}
    others = (sources & maps.keys()) - {layer.name}
    return counts[layer.name].inputs - sum(counts[source].spikes for source in others)


def _distance(origin: Core, target: Core, cores_per_chip: int) -> tuple[int, int]:
    """Columns and rows between the tiles of two cores, by their positions within their chips."""
    per_tile, per_row = int(_value("cores_per_tile")), int(_value("tiles_per_row"))
    tiles = [core.index % cores_per_chip // per_tile for core in (origin, target)]
    # tiles are numbered row by row
    (row, column), (to_row, to_column) = (divmod(tile, per_row) for tile in tiles)
    return abs(to_column - column), abs(to_row - row)


def _davies_pj(events: Events) -> float:
    """Energy by the constants of Davies et al. 2018."""
    return (
        events.synaptic_operations * _value("davies_synaptic_operation")
        + events.updates_active * _value("davies_update_active")
        + events.updates_inactive * _value("davies_update_inactive")
        + _transport_pj(events)
    )


def _sana_fe_pj(layer: LayerMap, events: Events) -> float:
    """Energy by SANA-FE: every neuron is accessed at every step, and updated if it changes."""
    updates = events.updates_active + events.updates_inactive
    return (
        events.synaptic_operations * _value(f"sana_fe_synapse_{layer.connection}")
        + updates * _value("sana_fe_neuron_access")
        + events.updates_active * _value("sana_fe_neuron_update")
        + events.spikes * _value("sana_fe_spike_out")
        + _transport_pj(events)
    )


def _transport_pj(events: Events) -> float:
    """Energy of messages on the mesh by Davies et al. 2018, for both models of Loihi 1."""
    return (
        events.messages * _value("davies_spike_within_tile")
        + events.hops_east_west * _value("davies_hop_east_west")
        + events.hops_north_south * _value("davies_hop_north_south")
    )


def _pilotnet_uj(core_map: CoreMap, counts: dict[str, LayerCounts]) -> float:
    """PilotNet's dynamic energy per neuron and step, scaled to this network."""
    dynamic_w = _value("pilotnet_power") - _value("pilotnet_static_power")
    update_uj = dynamic_w * _value("pilotnet_step_time") / _value("pilotnet_neurons")
    return update_uj * sum(m.compartments * counts[m.name].steps for m in core_map.layers)


def _step_time_us(core_map: CoreMap, counts: dict[str, LayerCounts]) -> dict[str, float]:
    """Mean time of a step by three models, each for its busiest core."""
    synapses_ns = busiest = 0.0
    for layer in core_map.layers:
        count = counts[layer.name]
        operations = (count.synaptic_macs + count.synaptic_acs) / count.steps
        per_operation_ns = _value(f"sana_fe_synapse_{layer.connection}_time")
        for core in layer.cores:
            # The readout is split by its inputs, so its cores have synapses for all classes.
            fraction = (
                core.synapses / sum(c.synapses for c in layer.cores)
                if layer.name == READOUT
                else core.neurons / layer.neurons
            )
            synapses_ns = max(synapses_ns, operations * fraction * per_operation_ns)
            busiest = max(busiest, core.compartments)
    step_us = _value("pilotnet_step_time")
    return {
        "loihi1_sana_fe_synapses": synapses_ns * 1e-3,
        "loihi2_pilotnet_scaled": step_us * busiest / _value("pilotnet_neurons_of_busiest_core"),
        "loihi2_pilotnet": step_us,
    }
