"""Check of tensor sizes while a model is constructed, before memory is allocated.

Linux promises memory that it does not have, and then kills the process that uses it; the sizes of
tensors are therefore compared with what is available when they are created.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from neuro.data.base import InputSpec
from neuro.errors import ConfigError
from neuro.models.base import CoreModel
from neuro.models.capabilities import Connected, Spiking
from neuro.models.state import tensors_of
from neuro.runtime import randomness
from neuro.runtime.memory import check_memory

T = TypeVar("T")

#: functions that create a tensor from its sizes
_FACTORIES = frozenset(
    (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye)
)
#: bytes of tensors that are not counted: they are many and small
_SMALL = 1 << 20
#: bytes of a tensor before which a model is constructed without memory, to sum up all it needs
_LARGE = 1 << 28

_ADVICE = "Choose smaller layers (model.*), or inputs with fewer values."


class _Large(Exception):
    """A tensor is so large that filling it takes seconds."""


class _Checked(TorchFunctionMode):
    """Refuses tensors that do not fit into memory beside those that were created before."""

    def __init__(self, sizes: Mapping[str, Sequence[int]], largest: float = math.inf) -> None:
        """`sizes`: see `sizes_of`; `largest`: bytes of a tensor above which `_Large` is raised."""
        super().__init__()
        self.sizes = sizes
        self.largest = largest
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
        if size > self.largest:
            raise _Large
        cause = _cause_of(shape, self.sizes)
        what = f"{cause} a tensor of {shape} beside what was created before"
        check_memory(self.copies * (self.alive + size), what, _ADVICE)
        created: Tensor = function(*args, **kwargs)
        self.alive += size
        weakref.finalize(created.untyped_storage(), self._forget, size)
        return created

    def _forget(self, size: int) -> None:
        self.alive -= size


def sizes_of(config: object, path: str) -> dict[str, list[int]]:
    """The positive integers of a part of the config by their key paths; a list has one path."""
    if isinstance(config, Mapping):
        inner = [sizes_of(value, f"{path}.{key}") for key, value in config.items()]
        return {key: sizes for found in inner for key, sizes in found.items()}
    values = config if isinstance(config, (list, tuple)) else [config]
    sizes = [n for n in values if isinstance(n, int) and not isinstance(n, bool) and n > 0]
    return {path: sizes} if sizes else {}


def _cause_of(shape: Sequence[int], sizes: Mapping[str, Sequence[int]]) -> str:
    """The key and value that make a tensor large, for a message; several keys if they are equal.

    It is the one that equals the largest dimension, or is the largest factor of it: the inputs of
    a layer are a number of channels times their height and width, the rows of gates a multiple of a
    width. Factors below the square root of the dimension do not explain it.
    """
    for dimension in sorted(shape, reverse=True):
        factors = {n for values in sizes.values() for n in values if dimension % n == 0}
        size = max(factors, default=0)
        if size**2 > dimension:
            keys = ", ".join(key for key, values in sizes.items() if size in values)
            return f"{keys}: got {size}, which makes"
    return "model:"


def constructed(build: Callable[[], T], sizes: Mapping[str, Sequence[int]] | None = None) -> T:
    """What `build` constructs. ConfigError if its tensors do not fit into memory.

    `sizes` are those of `sizes_of`, from which the message names the key.

    Filling tensors of gigabytes takes long. Before the first of them, construction is repeated on
    torch's device `meta`, which has sizes and no memory, so that a model which is too large is
    refused at once.
    """
    generators = randomness.capture()
    try:
        with within_memory(sizes, _LARGE):
            return build()
    except _Large:
        pass
    randomness.restore(generators)
    # the constructor of a user's model may need values, which `meta` does not have
    with suppress(NotImplementedError, RuntimeError), torch.device("meta"), _Checked(sizes or {}):
        build()
    randomness.restore(generators)
    with within_memory(sizes):
        return build()


@contextmanager
def within_memory(
    sizes: Mapping[str, Sequence[int]] | None = None, largest: float = math.inf
) -> Iterator[None]:
    """A context in which tensors beyond the available memory raise ConfigError."""
    try:
        with _Checked(sizes or {}, largest):
            yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        if isinstance(error, MemoryError) or "allocate memory" in text or "overflow" in text:
            raise ConfigError(f"model: does not fit into memory ({text}). {_ADVICE}") from error
        raise


def check_sequence_memory(
    model: CoreModel, inputs: InputSpec, batch_size: int, frames: int
) -> None:
    """ConfigError if one-hot inputs or the outputs of the largest layer do not fit into memory.

    Outputs are one float32 per neuron, sample and frame, which is the least that a pass needs: its
    kernels map whole sequences. The state of a spiking layer has one value or more per neuron.
    """
    over = f"over {frames} frames"
    batch = f"data.batch_size={batch_size}"
    if inputs.is_symbolic and inputs.dtype == "float":
        check_memory(
            4 * prod(inputs.shape) * batch_size * frames,
            f"{batch}: one-hot vectors of {prod(inputs.shape)} symbols {over}",
            "Choose a smaller batch (with more trainer.accumulate) or fewer data.symbols; a model "
            "that embeds tokens takes data.input_encoding=tokens.",
        )
    if torch.cuda.is_available():
        return
    if isinstance(model, Spiking):
        sizes = [state.numel() for state in tensors_of(model.initial_state(1))]
    elif isinstance(model, Connected):
        sizes = [len(connection.weight) for connection in model.connections()]
    else:
        return
    neurons = max(sizes, default=0)
    check_memory(
        4 * neurons * batch_size * frames,
        f"{batch}: outputs of {neurons} neurons {over}",
        "Choose a smaller batch (with more trainer.accumulate), smaller layers (model.*) or fewer "
        "frames (data.timings, data.target_seq_len).",
    )


def _shape(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[int]:
    """The sizes given to a function: a sequence, or numbers one by one."""
    given = args[0] if args else kwargs.get("size", ())
    if isinstance(given, (list, tuple)):
        return [int(n) for n in given]
    sizes = [int(n) for n in args]
    return sizes * 2 if function is torch.eye and len(sizes) == 1 else sizes
