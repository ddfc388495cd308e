"""Check of tensor sizes while a model is constructed, before memory is allocated.

Linux promises memory that it does not have, and then kills the process that uses it; the sizes of
tensors are therefore compared with what is available when they are created.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuro.errors import ConfigError
from neuro.models.base import CoreModel
from neuro.models.capabilities import Spiking
from neuro.models.state import tensors_of
from neuro.runtime.memory import check_memory

#: functions that create a tensor from its sizes
_FACTORIES = frozenset(
    (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye)
)
#: bytes of tensors that are not counted: they are many and small
_SMALL = 1 << 20

_ADVICE = "Choose smaller layers (model.*), or inputs with fewer values."


class _Checked(TorchFunctionMode):
    """Refuses tensors that do not fit into memory beside those that were created before."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0  #: bytes of the tensors that still exist
        #: on a CPU gradients take as much again, at least; on a GPU they are not in this memory
        self.copies = 1 if torch.cuda.is_available() else 2

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _FACTORIES:
            return function(*args, **kwargs)
        shape = _shape(function, args, kwargs)
        size = prod(shape) * (kwargs.get("dtype") or torch.get_default_dtype()).itemsize
        if size < _SMALL:
            return function(*args, **kwargs)
        what = f"model: a tensor of {shape} beside what was created before"
        check_memory(self.copies * (self.alive + size), what, _ADVICE)
        created: Tensor = function(*args, **kwargs)
        self.alive += size
        weakref.finalize(created.untyped_storage(), self._forget, size)
        return created

    def _forget(self, size: int) -> None:
        self.alive -= size


@contextmanager
def within_memory() -> Iterator[None]:
    """A context in which tensors beyond the available memory raise ConfigError."""
    try:
        with _Checked():
            yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "allocate memory" in text or "overflow" in text:
            raise ConfigError(f"model: does not fit into memory ({text}). {_ADVICE}") from error
        raise


def check_outputs(model: CoreModel, batch_size: int, frames: int) -> None:
    """ConfigError if the outputs of a spiking model's largest layer do not fit into memory.

    They are one float32 per neuron, sample and frame, which is the least that a pass needs: its
    kernels map whole sequences. State has one value or more per neuron.
    """
    if torch.cuda.is_available() or not isinstance(model, Spiking):
        return
    neurons = max((state.numel() for state in tensors_of(model.initial_state(1))), default=0)
    check_memory(
        4 * neurons * batch_size * frames,
        f"data.batch_size={batch_size}: outputs of {neurons} neurons over {frames} frames",
        "Choose a smaller batch (with more trainer.accumulate), smaller layers or fewer frames.",
    )


def _shape(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """The sizes given to a function: a sequence, or numbers one by one."""
    given = args[0] if args else kwargs.get("size", ())
    if isinstance(given, (list, tuple)):
        return [int(n) for n in given]
    sizes = [int(n) for n in args]
    return sizes * 2 if function is torch.eye and len(sizes) == 1 else sizes
