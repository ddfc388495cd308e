"""Import of Lava on Pythons and with a NumPy that its last release (0.10.0) does not declare.

`lava.magma.compiler.var_model` has dataclasses whose fields default to instances of dataclasses
that define equality but no hash. Since 3.11, Python takes an unhashable default for a mutable one
and refuses the class. The classes of that module are therefore given a hash while it is imported;
afterwards `dataclasses.dataclass` is what it was.

Reshaping ports call `np.reshape(newshape=...)`, an argument that NumPy 2.4 removed; they are given
functions without it. Nothing else in Lava depends on the versions.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

#: Lava's requirements but for its Python and NumPy; asteval and networkx are requirements of neuro
INSTALL = "pip install --no-deps --ignore-requires-python lava-nc==0.10.0"

_MODULE = "lava.magma.compiler.var_model"


def import_lava() -> None:
    """Import the module of Lava that needs help. ImportError without Lava."""
    try:
        importlib.import_module(_MODULE)
    except ValueError:  # "mutable default <class ...> for field x is not allowed"
        with _hashable_dataclasses():
            importlib.import_module(_MODULE)
    from lava.magma.core.process.ports.ports import ReshapePort

    ReshapePort.get_transform_func_fwd = lambda port: functools.partial(_reshaped, port.shape)
    ReshapePort.get_transform_func_bwd = lambda port: functools.partial(_reshaped, port.old_shape)


def _reshaped(shape: tuple[int, ...], data: np.ndarray) -> np.ndarray:
    """`np.reshape` with its arguments in the order of `functools.partial`."""
    return np.reshape(data, shape)


@contextmanager
def _hashable_dataclasses() -> Iterator[None]:
    """Give the dataclasses of `_MODULE` a hash, and leave those of other modules as they are."""
    original = dataclasses.dataclass

    def dataclass(cls: type | None = None, /, **options: Any) -> Any:
        def decorate(cls: type) -> Any:
            hashed = {"unsafe_hash": True} if cls.__module__ == _MODULE else {}
            return original(cls, **{**options, **hashed})

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original
