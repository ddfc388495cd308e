"""Wirings of liquid networks: which unit has a synapse to which, and of which sign.

Fully connected, or a neural circuit policy (Lechner et al. 2020, Nature Machine Intelligence 2):
inputs reach inter neurons, those command neurons, which are recurrent, and those the motor neurons,
which are the outputs. "Auto" derives the numbers of neurons and synapses from the number of units
and a sparsity, as the package ncps does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch import Tensor

#: excitatory synapses are twice as frequent as inhibitory ones where all units are connected
POLARITIES = (-1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Wiring:
    """Synapses with their polarity -1 or 1; 0 is none.

    sensory: `[F, N]`, from inputs. recurrent: `[N, N]`, from row to column. layers: units in the
    order in which a step passes through them. The first `outputs` units are the outputs.
    """

    sensory: Tensor
    recurrent: Tensor
    layers: tuple[range, ...]
    outputs: int

    @property
    def inputs(self) -> int:
        return len(self.sensory)

    @property
    def units(self) -> int:
        return len(self.recurrent)


class WiringRule(ABC):
    """How the wiring of a network is made: a component in a config."""

    #: constructor arguments that the program supplies; see `neuro/config/build.py`
    supplied: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def make(self, inputs: int, units: int) -> Wiring:
        """The wiring of a network. Raises ValueError for a network that is too small."""


@dataclass(frozen=True)
class FullyConnected(WiringRule):
    """All inputs and units connected to all units; `seed` of the polarities.

    The first `outputs` units are outputs; None: all.
    """

    outputs: Annotated[int, Ge(1)] | None = None
    seed: Annotated[int, Ge(0)] = 1111

    def make(self, inputs: int, units: int) -> Wiring:
        outputs = self.outputs
        if outputs is not None and outputs > units:
            raise ValueError(f"outputs: got {outputs}; a wiring of {units} units has at most that")
        rng = np.random.default_rng(self.seed)
        signs = torch.from_numpy(rng.choice(POLARITIES, (inputs + units, units))).float()
        return Wiring(signs[:inputs], signs[inputs:], (range(units),), outputs or units)


@dataclass(frozen=True)
class AutoNCP(WiringRule):
    """Neural circuit policy: 0.6 of the units that are no outputs are inter, 0.4 command neurons.

    outputs: motor neurons. sparsity: 0.1 (dense) to 0.9, the fraction of absent synapses between
    neighbouring layers.
    """

    outputs: Annotated[int, Ge(1)]
    sparsity: Annotated[float, Interval(ge=0.1, le=0.9)] = 0.5
    seed: Annotated[int, Ge(0)] = 22222

    def make(self, inputs: int, units: int) -> Wiring:
        """The wiring of a network, with units in the order motor, command, inter."""
        outputs = self.outputs
        if outputs > units - 3:
            raise ValueError(
                f"outputs: got {outputs}; a neural circuit policy of {units} units has at most "
                f"{max(units - 3, 0)}, because it needs inter and command neurons as well. Use "
                f"at least {outputs + 3} units."
            )
        others = units - outputs
        command = max(int(0.4 * others), 1)
        inter = others - command
        motors, commands = range(outputs), range(outputs, outputs + command)
        inters = range(outputs + command, units)
        density, rng = 1 - self.sparsity, np.random.default_rng(self.seed)
        sensory, recurrent = torch.zeros(inputs, units), torch.zeros(units, units)
        _fan_out(sensory, range(inputs), inters, max(int(inter * density), 1), rng)
        _fan_out(recurrent, inters, commands, max(int(command * density), 1), rng)
        for _ in range(max(int(2 * command * density), 1)):
            source, target = rng.choice(commands, 2)
            recurrent[source, target] = float(rng.choice((-1, 1)))
        # motor neurons choose their sources: a fan-out of the transposed matrix
        _fan_out(recurrent.T, motors, commands, max(int(command * density), 1), rng)
        return Wiring(sensory, recurrent, (inters, commands, motors), outputs)


def _fan_out(
    matrix: Tensor, sources: range, targets: range, count: int, rng: np.random.Generator
) -> None:
    """Give each source synapses to `count` targets, then each target without one its share."""
    for source in sources:
        chosen = rng.choice(targets, count, replace=False)
        matrix[source, chosen] = torch.from_numpy(rng.choice((-1.0, 1.0), count)).float()
    rows = slice(sources.start, sources.stop)
    share = int(np.clip(len(sources) * count // len(targets), 1, len(sources)))
    for target in targets:
        if not matrix[rows, target].any():
            chosen = rng.choice(sources, share, replace=False)
            matrix[chosen, target] = torch.from_numpy(rng.choice((-1.0, 1.0), share)).float()
