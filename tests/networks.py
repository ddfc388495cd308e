"""The four spiking networks, as small as they can be."""

from __future__ import annotations

from typing import Any

import torch

from neuro.models.backbone import SpikingBackbone
from neuro.models.dsdsnn import DSDSNN
from neuro.models.hlop import HLOP
from neuro.models.lif import LIFNetwork
from neuro.models.ltgate import LTGate
from tests.fakes import FakeData

MODELS: dict[str, type[SpikingBackbone]] = {
    "ltgate": LTGate,
    "lif": LIFNetwork,
    "hlop": HLOP,
    "dsdsnn": DSDSNN,
}
SMALL: dict[str, Any] = {
    "channels": (3, 4),
    "strides": (1, 2),
    "dense_units": 6,
    "threshold": 0.3,
    "readout_grid": 2,
}


def network(kind: str, seed: int = 0, **options: Any) -> SpikingBackbone:
    """A small network by its option's name, with fixed initial weights."""
    torch.manual_seed(seed)
    return MODELS[kind](FakeData().spec("fast"), **{**SMALL, **options})
