"""Exported graphs equal their models; unsupported models are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from neuro.errors import ConfigError, ExportError
from neuro.experiment.export import FILES, _Sequence, check_exportable, compare, write_graph
from neuro.layers.hybrid_block import ClosedForm, Exchange, Mamba, Spiking
from neuro.layers.lif import LIFNeuron
from neuro.models.hybrid import Hybrid
from neuro.models.rsnn import RSNN
from neuro.ops.plain import are_plain, plain_forms
from tests.fakes import FakeData, linear
from tests.language import memory_lm, token_spec, tokens
from tests.networks import network

STEPS = 4
FRAMES = torch.rand(3, STEPS, 1, 6, 6, generator=torch.Generator().manual_seed(0))


def hybrid(mode):
    torch.manual_seed(0)
    parts = ClosedForm(units=6, backbone_units=8), Mamba(4), Exchange(2, attention_heads=2)
    encoder = Spiking(units=4, dropout=0.0)
    return Hybrid(token_spec(steps=STEPS), 8, 1, mode, encoder, *parts)


def spiking(kind, **options):
    model = network(kind, readout="linear", **options)
    torch.nn.init.normal_(model.readout.weight)  # 0 at first
    return model


def delayed(kind):
    torch.manual_seed(0)
    model = RSNN(
        FakeData().spec("fast"), LIFNeuron(threshold=0.2), (5,), delays_ms=3.0, delay_kind=kind
    )
    torch.nn.init.normal_(model.readout.weight)
    return model


MODELS = {
    "axonal delays": lambda: (delayed("axonal"), FRAMES, 1.0),
    "synaptic delays": lambda: (delayed("synaptic"), FRAMES, 1.0),
    "lif": lambda: (spiking("lif"), FRAMES, 1.0),
    "dual": lambda: (spiking("ltgate", gate="fixed"), FRAMES, 1.0),
    "sequential": lambda: (hybrid("sequential"), tokens(steps=STEPS), None),
    "bidirectional": lambda: (hybrid("bidirectional"), tokens(steps=STEPS), None),
}


@pytest.mark.parametrize(
    "name, kind",
    [
        *((name, "torchscript") for name in MODELS),
        ("lif", "onnx"),
        ("bidirectional", "onnx"),
        ("synaptic delays", "onnx"),
        *(pytest.param(name, "torch_export", marks=pytest.mark.slow) for name in MODELS),
    ],
)
def test_a_graph_equals_its_model(name, kind, tmp_path: Path):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    model, inputs, dt_ms = MODELS[name]()
    sequence = _Sequence(model, dt_ms)
    graph = write_graph(sequence, inputs[:1], tmp_path / FILES[kind], kind)
    assert (tmp_path / FILES[kind]).stat().st_size > 0
    difference, scale = compare(sequence, graph, inputs)
    assert difference <= 1e-5 * scale
    assert not torch.equal(graph(inputs[:1]), graph(inputs[1:2]))  # no constants
    assert not are_plain()


def test_plain_forms_equal_the_kernels():
    """Also for traces with several kinds of ops."""
    for make in MODELS.values():
        model, inputs, dt_ms = make()
        with torch.no_grad():
            fused = model.eval()(inputs, dt_ms=dt_ms).values
            with plain_forms():
                torch.testing.assert_close(model(inputs, dt_ms=dt_ms).values, fused)


def test_differences_are_found():
    model = nn.Linear(2, 2)
    inputs = torch.rand(3, 2)
    difference, _ = compare(model, lambda x: model(x) + 0.5, inputs)
    assert difference == pytest.approx(0.5)


def test_what_cannot_be_traced_has_one_message(tmp_path: Path):
    class Numbers(nn.Module):
        def forward(self, x):
            return torch.ops.neuro.missing(x)

    with pytest.raises((ExportError, AttributeError)):
        write_graph(Numbers(), torch.rand(1, 2), tmp_path / "x.ts", "torchscript")


@pytest.mark.parametrize(
    "model, names",
    [
        (network("ltgate"), "layers.conv1.gate.fast_variance"),
        (memory_lm(), "plastic state"),
    ],
    ids=["ltgate", "memory_lm"],
)
def test_plastic_state_is_refused(model, names):
    with pytest.raises(ConfigError) as caught:
        check_exportable(model)
    assert "has plastic state" in str(caught.value)
    assert names in str(caught.value) or "readout" in str(caught.value)


def test_other_models_can_be_exported():
    check_exportable(linear())
    check_exportable(network("lif", readout="linear"))
