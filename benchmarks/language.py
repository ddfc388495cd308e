"""Language models: scan against memory traffic, training against a loop over tokens, generation.

python -m benchmarks.language
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from benchmarks.harness import Comparison, compare, print_table
from neuro.config.build import build
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.learning.generation import Sampling, Writer
from neuro.models.base import CoreModel
from neuro.ops import linear_scan

SHAPES = ((64, 48, 512), (64, 16, 1024), (256, 16, 512))  # T, streams, features
VOCABULARY = 257
CONF = Path(__file__).parents[1] / "conf" / "model"


def scan(T: int, B: int, N: int) -> Comparison:
    """Forward and backward against reading and writing the same tensors once."""
    a, b = (torch.rand(T, B, N, requires_grad=True) for _ in range(2))
    grad = torch.rand(T, B, N)
    x, grad_a, grad_b = (torch.empty(T, B, N) for _ in range(3))

    @torch.no_grad()
    def traffic() -> None:
        torch.add(a, b, out=x)  # forward: a, b, and x as the result
        torch.mul(a, grad, out=grad_b)  # backward: a, x and the gradient, and two results
        grad_a.copy_(x)

    def fused() -> None:
        torch.autograd.grad(linear_scan(a, b), (a, b), grad)

    return compare(f"[{T}, {B}, {N}]", traffic, fused)


def language_model(name: str, tier: str | None = None) -> CoreModel:
    """A shipped model over bytes."""
    node: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())["model"]
    if tier is not None:
        node["tier"] = yaml.safe_load((CONF / "tier" / f"{tier}.yaml").read_text())
    inputs = InputSpec((), "int", VOCABULARY, document_end=VOCABULARY - 1)
    spec = TaskSpec("t", inputs, TargetSpec("token", classes=VOCABULARY), ((256, None),))
    torch.manual_seed(0)
    return build(node, CoreModel, "model", spec=spec)


def training(tier: str, streams: int, steps: int, rounds: int) -> Comparison:
    """An update's forward and backward pass, against the same model token by token."""
    model = language_model("memory_lm", tier)
    x = torch.randint(VOCABULARY - 1, (streams, steps))

    def learn(run: Callable[[], Tensor]) -> None:
        F.cross_entropy(run()[:, :-1].flatten(0, 1), x[:, 1:].flatten()).backward()
        model.zero_grad()

    def loop() -> Tensor:
        state, values = None, []
        for token in x.split(1, 1):
            output = model(token, state, dt_ms=None)
            state = output.state
            values.append(output.values)
        return torch.cat(values, 1)

    found = compare(
        f"tier {tier}",
        lambda: learn(loop),
        lambda: learn(lambda: model(x, dt_ms=None).values),
        rounds=rounds,
    )
    rate = streams * steps / found.candidate_s
    return found._replace(name=f"{found.name}, {streams} x {steps}: {rate:,.0f} tokens/s")


def generation(name: str, tier: str | None = None, count: int = 200) -> float:
    """Tokens per second of one stream, the best of three runs after one to warm up."""
    writer = Writer(language_model(name, tier).eval(), Sampling(), torch.Generator())
    writer.read([0])
    best = 0.0
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(count):
            writer.write()
        best = max(best, count / (time.perf_counter() - start))
    return best


def main() -> None:
    print_table(
        "affine scan, forward and backward (1 / 1.5 = 0.7x is the target)",
        [scan(*shape) for shape in SHAPES],
        baseline="memory",
        candidate="scan",
    )
    print()
    print_table(
        "memory_lm, one update",
        [training("tiny", 16, 256, 3), training("a", 4, 128, 1)],
        baseline="by token",
        candidate="by span",
    )
    print("\ngeneration, one stream")
    for name, tier in (("memory_lm", "tiny"), ("transformer_lm", None), ("gru_lm", None)):
        print(f"{name:14}  {generation(name, tier):6.0f} tokens/s")


if __name__ == "__main__":
    main()
