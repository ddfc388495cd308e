"""Devices by number: selected GPUs, and missing devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuro.config.hardware import HardwareSettings
from neuro.config.values import parse_values
from neuro.errors import ConfigError
from neuro.experiment.devices import make_fabric, pick_device


def settings(**values: Any) -> HardwareSettings:
    base = {"device": "auto", "devices": 1, "precision": "32-true", "strategy": "auto"}
    return parse_values({**base, "compile": False, **values}, HardwareSettings, "hardware")


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_gpus_are_chosen_by_number() -> None:
    chosen = settings(devices=[3, 1])
    assert chosen.count == 2 and pick_device(chosen) == torch.device("cuda", 3)
    assert chosen.first.devices == (3,)
    assert pick_device(settings(devices=2)) == torch.device("cuda", 0)
    with pytest.raises(ConfigError, match=r"got \[0, 4\], but the GPUs of this machine are 0 to 3"):
        pick_device(settings(devices=[0, 4]))
    with pytest.raises(ConfigError, match=r"hardware.devices: got 5, but this machine has 4"):
        pick_device(settings(devices=5))


def test_a_cpu_has_no_numbers() -> None:
    with pytest.raises(ConfigError, match=r"got \[2, 3\], numbers of GPUs.*hardware.devices=2"):
        pick_device(settings(device="cpu", devices=[2, 3]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"devices": []}, "hardware.devices"),
        ({"devices": [1, 1]}, "once only"),
        ({"devices": [-1]}, "hardware.devices"),
        ({"devices": "2"}, "hardware.devices"),
        ({"device": "mps"}, "the GPUs of Apple are not supported.*Use hardware=cpu"),
    ],
)
def test_invalid_devices(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**values)


def test_a_job_of_slurm_with_several_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that srun has not started is alone, whatever the job's number of tasks is."""
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x"}.items():
        monkeypatch.setenv(name, value)
    assert make_fabric(settings(device="cpu")).world_size == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(ConfigError, match=r"srun started 2 processes.*srun --ntasks=1, with"):
        make_fabric(settings(device="cpu"))
