"""Plain forms of ops, for programs that record operations instead of computing values.

Exporters (`experiment/export.py`) follow torch's operations and do not see what compiled kernels
write. Within `plain_forms()`, an op decorated by `has_plain_form` is replaced by the function
`<name>_reference` of its module, which takes one step after the other by operations of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_in_use = False


@contextmanager
def plain_forms() -> Iterator[None]:
    """Use plain forms of all ops within the context; not for several threads at once."""
    global _in_use
    before, _in_use = _in_use, True
    try:
        yield
    finally:
        _in_use = before


def are_plain() -> bool:
    """Whether plain forms are in use."""
    return _in_use


def has_plain_form(op: Callable[P, R]) -> Callable[P, R]:
    """Replace an op by its reference within `plain_forms()`."""
    name = f"{op.__name__}_reference"

    @wraps(op)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _in_use:
            result: R = op.__globals__[name](*args, **kwargs)
            return result
        return op(*args, **kwargs)

    return call
