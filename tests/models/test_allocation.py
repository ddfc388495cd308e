"""Models that do not fit into memory are refused before they are allocated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from neuro.data.base import InputSpec
from neuro.errors import ConfigError
from neuro.models import allocation
from neuro.models.allocation import check_sequence_memory, constructed, sizes_of, within_memory
from neuro.models.base import CoreModel
from neuro.runtime import memory
from tests.networks import network
from tests.soen import soen


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


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((10**7, 1024), "model.dense_units: got 10000000, which makes"),
        ((4 * 10**7, 16), "model.dense_units: got 10000000, which makes"),  # gates, stacked
        ((512, 10**6 * 49), "model.channels: got 1000000, which makes"),  # inputs of 7 x 7 pixels
        ((3 * 10**6, 3), "model.neuron.states, model.neuron.slots: got 3000000, which makes"),
        ((10**7 + 19, 10**6 + 3), "model:"),  # primes, which match no key
    ],
)
def test_the_message_names_the_key(
    shape: tuple[int, int], cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 20)
    neuron = {"states": 3 * 10**6, "slots": 3 * 10**6, "plastic": True, "tau_ms": 2.0}
    model = {"dense_units": 10**7, "channels": [8, 10**6], "neuron": neuron, "name": "x"}
    with pytest.raises(ConfigError, match=f"^{cause} a tensor"):
        constructed(lambda: torch.zeros(shape), sizes_of(model, "model"))


def test_tensors_that_exist_together_are_summed(
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


def test_a_model_of_gigabytes_is_refused_before_tensors_are_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "available_memory", lambda: 20 << 30)
    filled = []

    def build() -> nn.Module:
        tensor = torch.ones(1 << 30)
        filled.append(tensor.device.type)
        return nn.Linear(1 << 20, 1 << 20)

    with pytest.raises(ConfigError, match=r"a tensor of \[1048576, 1048576\]"):
        constructed(build)
    assert filled == ["meta"]


def test_a_large_model_is_constructed_with_the_same_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(600, 700).weight
    monkeypatch.setattr(allocation, "_LARGE", 1 << 20)
    torch.manual_seed(0)
    assert torch.equal(plain, constructed(lambda: nn.Linear(600, 700)).weight)


def test_a_constructor_that_reads_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocation, "_LARGE", 1 << 20)
    assert constructed(lambda: float(torch.ones(1 << 20).sum())) == 1 << 20


@pytest.mark.parametrize("model", [network("lif"), soen()], ids=["spiking", "soen"])
def test_outputs_of_layers_are_checked(model: CoreModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inputs = InputSpec((4,))
    check_sequence_memory(model, inputs, 64, 200)
    with pytest.raises(ConfigError, match=r"data\.batch_size=64: outputs of .* neurons"):
        check_sequence_memory(model, inputs, 64, 10**10)


def test_one_hot_inputs_are_checked() -> None:
    inputs = InputSpec((10**9,), vocabulary=10**9)
    message = r"data\.batch_size=64: one-hot vectors of 1000000000 symbols over 50 frames"
    with pytest.raises(ConfigError, match=message):
        check_sequence_memory(network("lif"), inputs, 64, 50)
