"""Fixtures of kernel tests."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
import torch

from neuro.ops.kernels import spiking_torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["numba", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations of every kernel; the torch loops for other devices run on the CPU."""

    def launch_torch(name: str, *args: Any) -> None:
        getattr(spiking_torch, name)(*args)

    if request.param == "torch":
        for module in ("lif", "dual_lif", "scan"):
            # Not by attribute path: there, neuro.ops.lif is the function of that name.
            monkeypatch.setattr(import_module(f"neuro.ops.{module}"), "launch", launch_torch)
