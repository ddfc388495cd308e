"""Generic operations on the runtime state of a model.

A state is a tensor, an integer, None, or a (nested) NamedTuple, tuple, list or dictionary of
states. Every tensor has the batch in its first dimension, so that the sequences of a batch can be
selected, reset, joined and saved without knowing the model. An integer is a count of steps that all
sequences of a batch share, such as the position within a span: it is known without waiting for a
device. Selections and resets of sequences keep it, and files hold it as a tensor `[B]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from neuro.errors import CheckpointError

if TYPE_CHECKING:
    from neuro.models.base import CoreModel

#: fields of states in checkpoints of earlier versions, by their names of today
_FORMER_FIELDS = {"v": "u", "v_fast": "u_fast", "v_slow": "u_slow"}


def map_state(function: Callable[..., Tensor], *states: Any) -> Any:
    """Apply `function` to the corresponding tensors of states of the same structure."""
    return _rebuilt(lambda _, *tensors: function(*tensors), *states)


def select(state: Any, rows: slice | Tensor) -> Any:
    """The state of some of the sequences."""
    return map_state(lambda x: x[rows], state)


def concat(*states: Any) -> Any:
    """The state of the sequences of several batches, one after the other."""
    return map_state(lambda x, *others: torch.cat([x, *(y.to(x) for y in others)]), *states)


def reset(state: Any, initial: Any, rows: Tensor) -> Any:
    """Replace the state of the sequences in `rows` `[B]` (bool) by their `initial` state."""

    def replace(kept: Tensor, new: Tensor) -> Tensor:
        return torch.where(rows.view(-1, *[1] * (kept.ndim - 1)), new.to(kept), kept)

    return map_state(replace, state, initial)


def finite(state: Any) -> Tensor:
    """True for sequences whose state is finite, `[B]` (bool)."""
    return torch.stack(
        # the size of a row, not -1, which is ambiguous for an empty row
        [x.isfinite().reshape(len(x), x.shape[1:].numel()).all(1) for x in tensors_of(state)]
    ).all(0)


def tensors_of(state: Any) -> Iterator[Tensor]:
    """The tensors of a state, in order."""
    yield from named_tensors(state).values()


def parts_of(state: Any) -> tuple[list[Tensor], list[int]]:
    """The tensors and the integers of a state, in order."""
    tensors: list[Tensor] = []
    counts: list[int] = []

    def note(_: str, tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    def note_count(_: str, count: int) -> int:
        counts.append(count)
        return count

    _rebuilt(note, state, number=note_count)
    return tensors, counts


def with_parts(template: Any, tensors: Iterable[Tensor], counts: Iterable[int]) -> Any:
    """A state with the template's structure from a result of `parts_of`."""
    following, numbers = iter(tensors), iter(counts)
    return _rebuilt(lambda *_: next(following), template, number=lambda *_: next(numbers))


def named_tensors(state: Any) -> dict[str, Tensor]:
    """The tensors by their path: field names, keys and positions, as in `0.v`.

    Integers are tensors `[B]` as well, after the others.
    """
    found: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(name: str, tensor: Tensor) -> Tensor:
        found[name] = tensor
        return tensor

    def note_count(name: str, count: int) -> int:
        counts[name] = count
        return count

    _rebuilt(note, state, number=note_count)
    if counts:
        like = next(iter(found.values()))
        for name, count in counts.items():
            found[name] = like.new_full((len(like),), count, dtype=torch.int64)
    return found


def with_tensors(template: Any, named: Mapping[str, Tensor]) -> Any:
    """A state with the template's structure from a result of `named_tensors`.

    The batch may have another size than the template's. CheckpointError if names or the shapes of
    a sample differ.
    """

    def take(name: str, tensor: Tensor) -> Tensor:
        if name not in named:
            path, dot, field = name.rpartition(".")
            former = f"{path}{dot}{_FORMER_FIELDS.get(field, field)}"
            name = former if former in named else name
        if name not in named or named[name].shape[1:] != tensor.shape[1:]:
            has = f"{tuple(named[name].shape)}" if name in named else "nothing"
            raise CheckpointError(
                f"The model's state '{name}' is {tuple(tensor.shape)}, the checkpoint holds {has}."
            )
        return named[name].to(tensor)

    def take_count(name: str, count: int) -> int:
        if name not in named:
            raise CheckpointError(
                f"The model's state '{name}' is a number, the checkpoint holds nothing."
            )
        return int(named[name][0])

    return _rebuilt(take, template, number=take_count)


def misshapen_state(model: CoreModel, batch_size: int = 3) -> Iterator[str]:
    """Problems of tensors in a model's initial state whose first dimension is not the batch."""
    for name, tensor in named_tensors(model.initial_state(batch_size)).items():
        if tensor.shape[:1] != (batch_size,):
            yield (
                f"model: tensor '{name}' of {type(model).__name__}.initial_state has the shape "
                f"{tuple(tensor.shape)} for a batch of {batch_size}; the first dimension must be "
                "the batch (docs/extending.md)."
            )


def _rebuilt(
    function: Callable[..., Tensor],
    *states: Any,
    path: str = "",
    number: Callable[[str, int], int] | None = None,
) -> Any:
    """A copy of the first state with tensors replaced by `function(path, *tensors)`.

    Integers of the first state are kept, or replaced by `number(path, integer)`.
    """
    state = states[0]
    if isinstance(state, Tensor):
        return function(path, *states)
    if state is None:
        return None
    if isinstance(state, int) and not isinstance(state, bool):
        return state if number is None else number(path, state)
    if isinstance(state, dict):
        keys: Any = list(state)
        parts = zip(*([part[key] for key in keys] for part in states), strict=True)
    elif isinstance(state, (tuple, list)):
        keys = getattr(state, "_fields", range(len(state)))
        parts = zip(*states, strict=True)
    else:
        raise TypeError(
            f"'{path}' is of type {type(state).__name__}; a state consists of tensors, integers, "
            "None, and tuples, lists and dictionaries of them"
        )
    made = [
        _rebuilt(function, *part, path=f"{path}.{key}" if path else str(key), number=number)
        for key, part in zip(keys, parts, strict=True)
    ]
    if isinstance(state, dict):
        return dict(zip(keys, made, strict=True))
    return type(state)(*made) if hasattr(state, "_fields") else type(state)(made)
