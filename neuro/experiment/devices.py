"""Make a torch device or a Lightning Fabric from the config's `hardware` keys.

Fabric is imported on first use, because it imports torch's compiler, which takes two seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import torch

from neuro.config.hardware import HardwareSettings
from neuro.config.trainer import LossScale
from neuro.errors import BackendUnavailable, ConfigError
from neuro.runtime.processes import started_by_torchrun

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision
    from lightning_fabric.strategies import Strategy


def pick_device(hardware: HardwareSettings) -> torch.device:
    """The device of a run in one process, or of the first of several processes.

    BackendUnavailable if this machine has no such device, ConfigError if it has fewer than
    `hardware.devices`.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    numbers = None if isinstance(hardware.devices, int) else hardware.devices
    if hardware.device == "cpu" or (hardware.device == "auto" and not gpus):
        if numbers is not None:
            raise ConfigError(
                f"hardware.devices: got {list(numbers)}, numbers of GPUs, but the run is on the "
                f"CPU. Give the number of processes, as in hardware.devices={len(numbers)}."
            )
        return torch.device("cpu")
    if not gpus:
        raise BackendUnavailable(
            "hardware.device=gpu: torch finds no GPU on this machine. Use hardware=cpu or "
            "hardware=auto, or install a torch build and driver for your GPU."
        )
    if numbers is not None and max(numbers) >= gpus:
        raise ConfigError(
            f"hardware.devices: got {list(numbers)}, but the GPUs of this machine are 0 to "
            f"{gpus - 1}."
        )
    if hardware.count > gpus:
        raise ConfigError(
            f"hardware.devices: got {hardware.devices}, but this machine has {gpus} GPU(s). "
            "Give at most that many."
        )
    return torch.device("cuda", 0 if numbers is None else numbers[0])


def make_fabric(hardware: HardwareSettings, scaler: LossScale | None = None) -> Fabric:
    """A Fabric for the configured device, precision and strategy.

    `scaler`: settings of the loss scale under 16-bit precision (None: defaults).
    BackendUnavailable if there is no such device, ConfigError if the combination is impossible.
    Several devices on one machine get a process each, which Fabric spawns unless torchrun has
    started them already.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    from lightning_fabric.strategies import DDPStrategy

    kind = pick_device(hardware).type
    _check_srun()
    nodes = _nodes(hardware.count) if started_by_torchrun() else 1
    parallel: Strategy | str = "auto"  # a single process exchanges no gradients
    if hardware.count * nodes > 1:
        method: Literal["popen", "spawn"] = "popen" if started_by_torchrun() else "spawn"
        # a local rule may leave parameters without a gradient
        parallel = DDPStrategy(start_method=method, find_unused_parameters=True)
    plugins: list[LightningEnvironment | TorchElasticEnvironment | MixedPrecision]
    # chosen here, since Fabric takes every process in a job of SLURM for one that srun started
    plugins = [TorchElasticEnvironment() if started_by_torchrun() else LightningEnvironment()]
    precision: str | None = hardware.precision
    if precision == "16-mixed":
        # given as a plugin: for precision=16-mixed on a CPU Fabric would silently use bf16
        plugins.append(_half_precision(kind, scaler or LossScale()))
        precision = None
    try:
        return Fabric(
            accelerator=kind,
            devices=hardware.devices if isinstance(hardware.devices, int) else [*hardware.devices],
            num_nodes=nodes,
            strategy=parallel,
            precision=precision,  # type: ignore[arg-type]
            plugins=plugins,  # type: ignore[arg-type]
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"hardware: cannot train with device={kind}, devices={hardware.devices}, "
            f"strategy={hardware.strategy}, precision={hardware.precision}: {error}"
        ) from error


def _check_srun() -> None:
    """ConfigError if srun started several processes, each of which would train the whole run."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks.isdigit() and int(tasks) > 1 and not started_by_torchrun():
        raise ConfigError(
            f"hardware.devices: srun started {tasks} processes, each of which would train the "
            f"whole run. Start one, srun --ntasks=1, with hardware.devices={tasks}; on several "
            "machines let srun start one torchrun on each (docs/parallel.md)."
        )


def _half_precision(kind: str, scaler: LossScale) -> MixedPrecision:
    """float16 on a kind of device, with a loss scaler of the given settings."""
    from lightning_fabric.plugins import MixedPrecision

    values = scaler.model_dump(exclude={"floor"})
    return MixedPrecision("16-mixed", kind, scaler=torch.amp.GradScaler(kind, **values))


def _nodes(devices: int) -> int:
    """Number of machines that torchrun uses. ConfigError unless each has `devices` processes."""
    here, everywhere = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if here != devices:
        raise ConfigError(
            f"hardware.devices: got {devices}, but torchrun started {here} processes on this "
            f"machine. Give hardware.devices={here}, or torchrun --nproc_per_node {devices}."
        )
    return everywhere // here
