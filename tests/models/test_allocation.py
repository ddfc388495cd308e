"""Models that do not fit into memory are refused before they are allocated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuro.errors import ConfigError
from neuro.models.allocation import check_outputs, within_memory
from neuro.runtime import memory
from tests.networks import network


def test_a_layer_beyond_memory_is_refused_before_it_is_allocated() -> None:
    tensor = (
        r"model: a tensor of \[10000000, 1000000\] .*: [0-9,.]+ GiB of memory are needed, but .*"
    )
    with pytest.raises(ConfigError, match=f"{tensor} are available. Choose"), within_memory():
        nn.Linear(1_000_000, 10_000_000)
    with pytest.raises(ConfigError, match=r"a tensor of \[10000000, 10000000\]"), within_memory():
        torch.eye(10**7)
    with pytest.raises(ConfigError, match="does not fit into memory"), within_memory():
        torch.ones(1).expand(10**7, 10**8).clone()


def test_layers_and_gradients_count_together_while_they_exist(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "available_memory", lambda: 20 << 20)
    with within_memory():
        for _ in range(5):
            torch.empty(1 << 20)  # 4 MiB, freed at once
    with pytest.raises(ConfigError, match="24.0 MiB of memory are needed"), within_memory():
        kept = [torch.empty(1 << 20) for _ in range(3)]
        assert kept is None  # not reached


def test_random_numbers_are_the_same() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(600, 700).weight
    torch.manual_seed(0)
    with within_memory():
        checked = nn.Linear(600, 700).weight
    assert torch.equal(plain, checked)


def test_outputs_of_spiking_layers_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = network("lif")
    check_outputs(model, 64, 200)
    with pytest.raises(ConfigError, match=r"data\.batch_size=64: outputs of .* neurons"):
        check_outputs(model, 64, 10**9)
