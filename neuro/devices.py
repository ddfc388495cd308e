"""Where training runs: the config's `hardware` keys as a Lightning Fabric."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from neuro.errors import BackendUnavailable, ConfigError


def make_fabric(hardware: Mapping[str, Any]) -> Fabric:
    """A Fabric for the device, precision and strategy that were asked for.

    BackendUnavailable if there is no such device, ConfigError if Fabric refuses the combination.
    Several devices on one machine are processes that are spawned, unless torchrun has started
    them already.
    """
    device = hardware["device"]
    if device == "auto":
        device = "gpu" if torch.cuda.is_available() else "cpu"
    if device == "gpu" and not torch.cuda.is_available():
        raise BackendUnavailable(
            "hardware.device=gpu: torch finds no GPU on this machine. Use hardware=cpu or "
            "hardware=auto, or install a torch build and driver for your GPU."
        )
    strategy = hardware["strategy"]
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if hardware["devices"] > 1 and strategy in ("auto", "ddp") and not launched:
        strategy = "ddp_spawn"
    plugins: list[Any] = []
    precision: str | None = hardware["precision"]
    if precision == "16-mixed" and device == "cpu":
        # Fabric would silently train in bf16 here; with a scaler of its own it does what it says
        scaler = torch.amp.GradScaler("cpu")
        plugins, precision = [MixedPrecision("16-mixed", "cpu", scaler=scaler)], None
    try:
        return Fabric(
            accelerator="cuda" if device == "gpu" else "cpu",
            devices=hardware["devices"],
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type]
            plugins=plugins,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"hardware: cannot train with device={device}, devices={hardware['devices']}, "
            f"strategy={strategy}, precision={hardware['precision']}: {error}"
        ) from error
