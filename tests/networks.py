"""The four spiking networks at minimal size."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from neuro.layers.dual_timescale import DualTimescaleNeuron
from neuro.layers.gate import Gating
from neuro.layers.lif import LIFNeuron
from neuro.models.consolidation import DSDSNN, HLOP, Settling
from neuro.models.spiking_cnn import SpikingCNN
from tests.fakes import FakeData

NEURONS: dict[str, type[LIFNeuron] | type[DualTimescaleNeuron]] = {
    "ltgate": DualTimescaleNeuron,
    "lif": LIFNeuron,
    "hlop": LIFNeuron,
    "dsdsnn": LIFNeuron,
}
MODELS = tuple(NEURONS)
CONSOLIDATIONS: dict[str, Any] = {"ltgate": Settling, "hlop": HLOP, "dsdsnn": DSDSNN}
SMALL: dict[str, Any] = {
    "channels": (3, 4),
    "strides": (1, 2),
    "dense_units": 6,
    "threshold": 0.3,
    "readout_grid": 2,
}
#: options of `network` whose names differ from the component's arguments
_NAMES = {"gate": "kind", "gamma": "gamma", "gate_rate": "rate"}


def network(kind: str, seed: int = 0, **options: Any) -> SpikingCNN:
    """A small network by its option's name, with fixed initial weights.

    `options` are arguments of the network, its neuron, gate (`gate`, `gamma`, `gate_rate`) and
    consolidation.
    """
    torch.manual_seed(seed)
    readout = "discriminant" if kind == "ltgate" else "linear"
    options = {"readout": readout, **SMALL, **options}
    gate = {name: options.pop(key) for key, name in _NAMES.items() if key in options}
    fields = {field.name for field in dataclasses.fields(NEURONS[kind])}
    parameters = {key: options.pop(key) for key in fields & options.keys()}
    if gate:
        parameters["gate"] = Gating(**gate)
    method = CONSOLIDATIONS.get(kind)
    own = ("share", "lateral_neurons", "growth", "prune_below")
    settings = {key: options.pop(key) for key in own if key in options}
    if method is not None:
        options.setdefault("consolidation", method(**settings))
    return SpikingCNN(FakeData().spec("fast"), NEURONS[kind](**parameters), **options)
