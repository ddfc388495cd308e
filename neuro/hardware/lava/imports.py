"""Import of Lava on Pythons that its last release (0.10.0) does not declare.

`lava.magma.compiler.var_model` has dataclasses whose fields default to instances of dataclasses
that define equality but no hash. Since 3.11, Python takes an unhashable default for a mutable one
and refuses the class. The classes of that module are therefore given a hash while it is imported;
afterwards `dataclasses.dataclass` is what it was. Nothing else in Lava depends on the version.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
