"""Lava is imported on every Python version, and the patch for its import is removed afterwards."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

SCRIPT = """
import dataclasses
before = dataclasses.dataclass
from neuro.hardware.lava.imports import import_lava
import_lava()
from lava.magma.compiler.var_model import ByteEncoder
assert dataclasses.dataclass is before
assert hash(ByteEncoder(1)) == hash(ByteEncoder(1))
import pickle
import numpy as np
from lava.magma.core.process.ports.ports import ReshapePort
port = ReshapePort((2, 3), (6,))
forward, backward = (
    pickle.loads(pickle.dumps(f))
    for f in (port.get_transform_func_fwd(), port.get_transform_func_bwd())
)
assert forward(np.arange(6)).tolist() == [[0, 1, 2], [3, 4, 5]]
assert backward(forward(np.arange(6))).tolist() == list(range(6))
"""


def test_dataclasses_are_restored_after_the_import() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], check=True)


def test_other_modules_use_unpatched_dataclasses_during_the_import() -> None:
    from neuro.hardware.lava.imports import _hashable_dataclasses

    usual = dataclasses.dataclass
    with pytest.raises(ZeroDivisionError), _hashable_dataclasses():

        @dataclasses.dataclass
        class Own:
            value: int = 1

        with pytest.raises(TypeError, match="unhashable"):
            hash(Own())
        raise ZeroDivisionError
    assert dataclasses.dataclass is usual
