"""A model's state as what it is, nested NamedTuples of tensors `[B, ...]`, and by field names.

States are carried from chunk to chunk and batch to batch, and saved; this is all that is needed
for that, whatever a model keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from neuro.errors import CheckpointError


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """The same structure with `function` applied to each tensor."""
    return _rebuilt(state, lambda _, tensor: function(tensor))


def tensors_of(state: Any) -> Iterator[Tensor]:
    """The tensors of a state, in order."""
    yield from named_tensors(state).values()


def named_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors by their path: field names of NamedTuples and positions, as in `0.u`."""
    found: dict[str, Tensor] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        found[name] = tensor
        return tensor

    _rebuilt(state, note)
    return found


def with_tensors(template: Any, named: Mapping[str, Tensor]) -> Any:
    """A state of the template's structure from what `named_tensors` gave.

    The batch may have another size than the template's. CheckpointError if names or the shapes of
    a sample differ.
    """

    def take(name: str, tensor: Tensor) -> Tensor:
        if name not in named or named[name].shape[1:] != tensor.shape[1:]:
            has = f"{tuple(named[name].shape)}" if name in named else "nothing"
            raise CheckpointError(
                f"The model's state '{name}' is {tuple(tensor.shape)}, the checkpoint holds {has}."
            )
        return named[name].to(tensor)

    return _rebuilt(template, take)


def _rebuilt(state: Any, function: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    if isinstance(state, Tensor):
        return function(path, state)
    if not isinstance(state, (tuple, list)):
        return state  # None, or a number that is the same for all sequences
    names = getattr(state, "_fields", range(len(state)))
    parts = [
        _rebuilt(part, function, f"{path}.{name}" if path else str(name))
        for name, part in zip(names, state, strict=True)
    ]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
