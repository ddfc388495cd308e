"""Overflows in any part of the hybrid are skipped and counted, at every precision."""

from __future__ import annotations

import pytest
import torch

from neuro.experiment.devices import make_fabric
from neuro.layers.hybrid_block import ClosedForm, Exchange, Mamba, Spiking
from neuro.models.hybrid import Hybrid
from tests.fakes import ADAMW, FakeData, hardware, make_trainer

#: submodule of a block whose output overflows, by part
PARTS = {
    "encoder": "encoder.out",
    "liquid": "liquid_out",
    "scan": "mamba.dt_proj",
    "gate": "gate",
}


def hybrid():
    torch.manual_seed(0)
    parts = ClosedForm(units=6, backbone_units=8), Mamba(4), Exchange(2, attention_heads=2)
    encoder = Spiking(units=4, dropout=0.0)
    return Hybrid(FakeData().spec("fast"), 8, 1, "parallel", encoder, *parts)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("part", PARTS)
def test_an_overflow_is_skipped_and_counted(tmp_path, part, precision):
    model, calls = hybrid(), 0

    def overflow(module, inputs, output):
        nonlocal calls
        calls += model.training
        return output * torch.inf if model.training and calls == 2 else output

    model.blocks[0].get_submodule(PARTS[part]).register_forward_hook(overflow)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = make_trainer(
        tmp_path, model, phases={"one": {"task": "fast", "steps": 6}}, optimizer=ADAMW,
        fabric=make_fabric(hardware(precision=precision)), clip_norm=1.0,
    )  # fmt: skip
    trainer.fit()
    assert trainer.guard.scaled == (precision == "16-mixed")
    assert (trainer.progress.skipped, trainer.progress.step) == (1, 6)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
    a_log = "blocks.0.mamba.A_log"
    assert not torch.equal(dict(model.named_parameters())[a_log], before[a_log])
