"""Hybrid blocks: causality, state and gradients of every integration, with every kind of part."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from neuro.layers.hybrid_block import (
    ClosedForm,
    Exchange,
    HybridBlock,
    HybridState,
    Integration,
    Mamba,
    Spiking,
    TimeConstant,
)
from neuro.layers.spike_encoder import Conversion
from neuro.layers.wiring import AutoNCP, FullyConnected
from neuro.models.state import named_tensors

MODES: tuple[Integration, ...] = get_args(Integration)
DIM, STEPS, CHANGED = 16, 12, 7
SETTINGS: dict[str, Any] = {
    "spiking": Spiking(10, dropout=0.0),
    "liquid": ClosedForm(12, backbone_units=14),
    "mamba": Mamba(4),
    "exchange": Exchange(2, attention_heads=2, window=4),
}
#: settings that differ in one part
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no encoder": {"spiking": None},
    "rate": {"spiking": Spiking(10, Conversion("rate", 3), dropout=0.0)},
    "potential": {"spiking": Spiking(10, Conversion("potential"), dropout=0.0)},
    "wired": {"liquid": ClosedForm(12, wiring=AutoNCP(3))},
    "mixed memory": {"liquid": ClosedForm(12, mixed_memory=True)},
    "ltc": {"liquid": TimeConstant(12, AutoNCP(3))},
}


def block(mode: Integration, **changes: Any) -> HybridBlock:
    """A block whose attention is not uniform."""
    torch.manual_seed(0)
    made = HybridBlock(DIM, mode, **{**SETTINGS, **changes})
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith("to_"):
                parameter.mul_(20)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
def test_is_causal(mode: Integration, variant: str) -> None:
    module, x = block(mode, **VARIANTS[variant]), torch.randn(STEPS, 2, DIM)
    changed = x.clone()
    changed[CHANGED] += torch.randn(DIM)
    before, after = module(x)[0], module(changed)[0]
    assert torch.equal(before[:CHANGED], after[:CHANGED])
    # the residual passes the change of the same step; later steps depend on it through the parts
    assert not torch.equal(before[CHANGED + 1 :], after[CHANGED + 1 :])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", MODES)
def test_parts_equal_the_whole(mode: Integration, variant: str) -> None:
    module, x = block(mode, **VARIANTS[variant]), torch.randn(STEPS, 2, DIM)
    whole, last = module(x)
    state: HybridState | None = None
    outputs = []
    for part in x.split([1, 1, 3, 7]):
        y, state = module(part, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs), whole, rtol=1e-4, atol=1e-5)
    found, expected = named_tensors(state), named_tensors(last)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert len(tensor) == 2
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_all_parameters(mode: Integration) -> None:
    module = block(mode)
    y = module(torch.randn(STEPS, 2, DIM))[0]
    gradients = torch.autograd.grad(y.square().sum(), list(module.parameters()))
    for (name, _), gradient in zip(module.named_parameters(), gradients, strict=True):
        assert gradient.isfinite().all() and gradient.any(), name


@pytest.mark.parametrize("mode", ["liquid", "sequential", "parallel", "bidirectional"])
def test_elapsed_times_matter_and_default_to_one(mode: Integration) -> None:
    module, x = block(mode), torch.randn(STEPS, 2, DIM)
    ones = torch.ones(STEPS, 2)
    torch.testing.assert_close(module(x)[0], module(x, None, ones)[0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(module(x)[0], module(x, None, 3 * ones)[0])


def changed_output(mode: Integration, **changes: Any) -> Tensor:
    x = torch.randn(STEPS, 2, DIM, generator=torch.Generator().manual_seed(0))
    return block(mode, **changes)(x)[0]


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        *((mode, {"spiking": replace(SETTINGS["spiking"], conversion=Conversion("rate"))})
          for mode in MODES),
        ("parallel", {"exchange": Exchange(1, attention_heads=2, window=4)}),
        ("parallel", {"exchange": Exchange(2, 9.0, attention_heads=2, window=4)}),
        ("bidirectional", {"exchange": Exchange(2, attention_heads=1, window=4)}),
        ("bidirectional", {"exchange": Exchange(2, attention_heads=2, window=3)}),
        ("sequential", {"spiking": Spiking(10, decay=0.5, dropout=0.0)}),
        ("sequential", {"spiking": Spiking(10, threshold=0.3, dropout=0.0)}),
        ("mamba", {"dropout": 0.5}),
    ],
)  # fmt: skip
def test_settings_have_an_effect(mode: Integration, changes: dict[str, Any]) -> None:
    assert not torch.equal(changed_output(mode), changed_output(mode, **changes))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"exchange\.gate_heads: got 3; expected a divisor of dim"):
        block("parallel", exchange=Exchange(3))
    with pytest.raises(ValueError, match=r"exchange\.attention_heads: got 3; expected a divisor"):
        block("bidirectional", exchange=Exchange(2, attention_heads=3))


@pytest.mark.parametrize("changes", [{"backbone_units": 64}, {"backbone_layers": 0}])
def test_a_wiring_has_no_backbone(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="with a wiring there is no backbone"):
        ClosedForm(8, wiring=FullyConnected(), **changes)
