"""A network of dendrites, fused, against a plain loop over its steps; forward and backward.

Three layers of 128 dendrites, each fed by a dense connection from the one before, on a batch
[B, T] = [64, 256]. The plain network goes step by step through its modules, a linear one and a
step of dendrites for each layer, with autograd. Weights, input and arithmetic are the same.

python -m benchmarks.dendrite
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Comparison, compare, print_table
from neuro.ops import Solver, SourceKind, dendrite, dendrite_step

BATCH, STEPS, WIDTH, LAYERS = 64, 256, 128, 3

CASES: tuple[tuple[SourceKind, Solver], ...] = (
    ("fitted", "euler"),
    ("table", "euler"),
    ("tanh_gauss", "euler"),
    ("tanh_gauss", "newton"),
    ("tanh", "scan"),
    ("relu", "scan"),
)


class Network(nn.Module):
    """Dense connections and dendrites in turn, all parameters learnable."""

    def __init__(self, source: SourceKind, solver: Solver):
        super().__init__()
        self.source, self.solver = source, solver
        self.connections = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))
        self.parameters_of_layers = nn.ModuleList(_dendrites() for _ in range(LAYERS))

    def plain(self, inputs_TBN: Tensor) -> Tensor:
        """All layers, one step after the other: states of the last layer [T, B, N]."""
        states = [torch.zeros_like(inputs_TBN[0]) for _ in range(LAYERS)]
        outputs = []
        for now in inputs_TBN:
            for n, (connection, layer) in enumerate(self._layers()):
                states[n] = dendrite_step(
                    connection(now), states[n], source=self.source, **layer
                ).s_BN
                now = states[n]
            outputs.append(now)
        return torch.stack(outputs)

    def fused(self, inputs_TBN: Tensor) -> Tensor:
        """All steps, one layer after the other: the same."""
        for connection, layer in self._layers():
            inputs_TBN = dendrite(
                connection(inputs_TBN), source=self.source, solver=self.solver, **layer
            ).s_TBN
        return inputs_TBN

    def _layers(self) -> list[tuple[nn.Module, dict[str, Any]]]:
        return [
            (connection, {"dt": 37.0, **dict(layer.named_parameters())})
            for connection, layer in zip(self.connections, self.parameters_of_layers, strict=True)
        ]


def _dendrites() -> nn.Module:
    defaults = {
        "gamma_plus": 0.006582,
        "gamma_minus": 1e-3,
        "phi_offset": 0.23,
        "bias_current": 1.7,
    }
    layer = nn.Module()
    for name, value in defaults.items():
        layer.register_parameter(name, nn.Parameter(torch.full((WIDTH,), value)))
    return layer


def train_steps(
    source: SourceKind, solver: Solver
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """A training step of the plain network and one of the fused; both return the loss."""
    torch.manual_seed(0)
    network = Network(source, solver)
    inputs = 0.5 * torch.rand(STEPS, BATCH, WIDTH)

    def step(run: Callable[[Tensor], Tensor]) -> Tensor:
        network.zero_grad()
        loss = run(inputs).mean()
        loss.backward()
        return loss

    return lambda: step(network.plain), lambda: step(network.fused)


def measure(rounds: int = 5) -> list[Comparison]:
    """Median seconds of a training step, step by step and fused."""
    return [
        compare(f"{source}, {solver}", *train_steps(source, solver), rounds=rounds)
        for source, solver in CASES
    ]


def main() -> None:
    print_table(
        f"{LAYERS} layers of {WIDTH} dendrites, B, T = {BATCH}, {STEPS}, on "
        f"{torch.get_num_threads()} CPU threads, forward and backward",
        measure(),
        baseline="per step",
        candidate="fused",
    )


if __name__ == "__main__":
    main()
