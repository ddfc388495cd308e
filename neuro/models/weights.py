"""Load stored tensors into a model, and swap its weights temporarily."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neuro.errors import CheckpointError


def load_weights(model: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load a model's tensors, all of them. CheckpointError lists those that differ."""
    differences = list(_differences(model.state_dict(), weights))
    if differences:
        shown = "\n".join(f"  {line}" for line in differences[:12])
        more = f"\n  ... and {len(differences) - 12} more" if len(differences) > 12 else ""
        raise CheckpointError(
            f"{source} is from another architecture; these tensors differ:\n{shown}{more}\n"
            "Use the model and data that it was trained with."
        )
    model.load_state_dict(weights)


def load_what_fits(model: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Load the tensors whose names and shapes fit; returns one line for each that does not."""
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    return list(_differences(own, weights))


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """A context in which the model has other values of some parameters.

    They and all buffers are restored exactly after it.
    """
    named = dict(model.named_parameters())
    changed: list[Tensor] = [named[name] for name in weights]
    tensors = [*changed, *model.buffers()]
    own = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        torch._foreach_copy_(changed, list(weights.values()))
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(tensors, own)


def _differences(own: dict[str, Tensor], given: dict[str, Tensor]) -> Iterator[str]:
    for name in sorted(own.keys() | given.keys()):
        if name not in given:
            yield f"{name}: missing, the model expects {tuple(own[name].shape)}"
        elif name not in own:
            yield f"{name}: {tuple(given[name].shape)}, unknown to the model"
        elif own[name].shape != given[name].shape:
            yield f"{name}: {tuple(given[name].shape)}, expected {tuple(own[name].shape)}"
