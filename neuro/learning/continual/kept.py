"""Named tensors that a term makes in training: saved in checkpoints, but not parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


class Kept(nn.Module, MutableMapping[str, Tensor]):
    """A mapping of tensors, whose names may contain dots.

    They follow the module to its device. Loading a state replaces all of them, so that a new term
    gets those that a trained one has, and the reverse. Processes do not exchange them: terms
    compute the same on each. Older checkpoints have names with slashes instead of dots.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tensors: dict[str, Tensor] = {}
        self.register_buffer("_place", torch.empty(0), persistent=False)  # on the module's device

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._tensors[name] = value

    def __delitem__(self, name: str) -> None:
        del self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __hash__(self) -> int:  # a mapping has none, and torch keeps modules in sets
        return id(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Kept:
        super()._apply(fn, recurse)
        self._tensors = {name: fn(value) for name, value in self._tensors.items()}
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination |= {f"{prefix}{name}": value for name, value in self._tensors.items()}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        device = self._buffers["_place"].device  # type: ignore[union-attr]
        self._tensors = {
            key.removeprefix(prefix).replace("/", "."): value.detach().to(device, copy=True)
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }
