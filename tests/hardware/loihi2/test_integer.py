"""Checks of shapes and registers on the construction of integer networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from neuro.errors import ExportError
from neuro.hardware.loihi2.integer import IntegerReadout, IntegerSynapse
from tests.hardware.loihi2.test_mapper import conv, dense, dual, lif, network


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"vth": 1 << 17}, "layer 'hidden': vth is 131,072; its register holds 0 to 131,071"),
        ({"vth": 0.5}, "layer 'hidden': vth must be integers; got float64"),
        ({"dv": 4096}, r"dv is 4,096; .* 0 to 4,095\. Use a shorter time constant or a longer"),
        ({"dv": -1}, "dv is -1"),
        ({"du": 4096}, "du is 4,096"),
        ({"du": np.array([1, 4096])}, "du is 4,096"),
        ({"dv": np.array([1, 2, 3])}, r"dv must have the shape \[2\]; got \[3\]"),
        ({"recurrent": dense("hidden", 2, 3)}, r"weights of shape \[2, 3\] do not fit 'hidden'"),
        ({"recurrent": dense("other", 2, 2)}, "from the layer's own spikes, .* from 'other'"),
        ({"recurrent": dense("hidden", 2, 2, graded=True)}, "recurrent synapses are dense"),
        ({"recurrent": dense("hidden", 3, 2)}, r"weights from 'hidden' must be \[2, inputs\]"),
        (
            {"bias_mantissa": np.array([4095, 4096])},
            "bias_mantissa is 4,096; its register holds -4,096 to 4,095. Use a larger bias_expo",
        ),
        ({"bias_mantissa": np.ones(2)}, "bias_mantissa must be integers; got float64"),
        ({"bias_mantissa": np.ones(3, int)}, r"bias_mantissa must have the shape \[2\]; got \[3\]"),
        ({"bias_exponent": 8}, "bias_exponent is 8.*0 to 7"),
        ({"reset": "hard"}, "layer 'hidden': reset must be one of subtract, zero; got 'hard'"),
        (
            {"shape": (2, 1)},
            r"layer 'hidden': its shape must be \[N\] or \[C, H, W\]; got \[2, 1\]",
        ),
        (
            {"shape": (3,)},
            r"weights from 'input' must be \[3, inputs\] for neurons of shape \[3\]; got \[2, 4\]",
        ),
        ({"shape": (2, 1, 1)}, r"must be \[2, inputs, height, width\] .*; got \[2, 4\]"),
        ({"synapse": conv("input", 2, 4)}, r"must be \[2, inputs\] .*; got \[2, 4, 3, 3\]"),
    ],
)
def test_inconsistent_layers(changes, message):
    with pytest.raises(ExportError, match=message):
        network(replace(lif("hidden", (2,), dense("input", 2, 4)), **changes))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dv_fast": -1}, "dv_fast is -1"),
        ({"dv_slow": 5000}, "dv_slow is 5,000"),
        ({"gamma": np.array([0, 257])}, "gamma is 257; its register holds 0 to 256"),
        ({"gamma": np.array([0])}, r"gamma must have the shape \[2\]; got \[1\]"),
        ({"gamma": None}, "layer 'hidden': merge 'gate' needs gamma, merge 'or' takes none"),
        ({"merge": "or"}, "layer 'hidden': merge 'gate' needs gamma, merge 'or' takes none"),
        ({"merge": "and"}, "merge must be one of gate, or; got 'and'"),
        ({"slow": dense("input", 3, 4)}, r"must be \[2, inputs\] .*; got \[3, 4\]"),
    ],
)
def test_inconsistent_dual_layers(changes, message):
    with pytest.raises(ExportError, match=message):
        replace(dual("hidden", (2,), dense("input", 2, 4)), **changes)


def test_registers_at_their_limits():
    lif(
        "hidden",
        (2,),
        dense("input", 2, 4),
        dv=4095,
        du=0,
        vth=(1 << 17) - 1,
        bias_mantissa=np.array([-4096, 4095]),
        bias_exponent=7,
    )
    dual("hidden", (2,), dense("input", 2, 4), dv_fast=0, vth=0, gamma=np.array([0, 256]))
    dual("hidden", (2,), dense("input", 2, 4), gamma=None, merge="or")


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: IntegerSynapse("x", np.ones((2, 3))),
            "weights from 'x' must be integers; got flo",
        ),
        (
            lambda: IntegerSynapse("x", np.ones(3, int)),
            r"weights from 'x' must be \[O, I, kh, kw\] or \[O, N\] and not empty; got \[3\]",
        ),
        (lambda: IntegerSynapse("x", np.ones((2, 0), int)), r"and not empty; got \[2, 0\]"),
        (lambda: conv("x", 1, 1, stride=(1, 0)), r"a stride is at least 1, .*; got \[1, 0\] and"),
        (lambda: conv("x", 1, 1, padding=(-1, 0)), r"a padding at least 0; got .* \[-1, 0\]"),
        (lambda: replace(dense("x", 2, 3), exponent=8), "have the exponent 8; the chip has 0 to 7"),
        (lambda: replace(conv("x", 1, 1), exponent=1), "have the exponent 1; .* convolutions have"),
        (
            lambda: replace(dense("x", 2, 3), delays=np.array([0, 1, 64])),
            "delays from 'x' span 0 to 64 steps; the chip's synapses delay by 0 to 63. Use short",
        ),
        (lambda: replace(dense("x", 2, 3), delays=np.array([0, 1, -1])), "span -1 to 1 steps"),
        (
            lambda: replace(dense("x", 2, 3), delays=np.array([0, 1])),
            r"must be \[N\] or \[O, N\], of dense weights \[O, N\]; got \[2\] for weights \[2, 3\]",
        ),
        (
            lambda: replace(conv("x", 1, 1), delays=np.array([1])),
            r"must be \[N\] or \[O, N\], of dense weights",
        ),
        (lambda: replace(dense("x", 2, 3), delays=np.zeros(3)), "delays from 'x' must be integers"),
        (
            lambda: IntegerReadout((dense("x", 2, 3),), (1.0,), np.zeros(2), dv=4096),
            "layer 'readout': dv is 4,096",
        ),
        (
            lambda: IntegerReadout((dense("x", 2, 3),), (1.0, 2.0), np.zeros(2)),
            "layer 'readout': it needs synapses and a scale for each; got 1 and 2",
        ),
        (lambda: IntegerReadout((), (), np.zeros(2)), "got 0 and 0"),
        (
            lambda: IntegerReadout((dense("x", 2, 3),), (1.0,), np.zeros(4)),
            r"layer 'readout': weights from 'x' must be \[4, inputs\] .*; got \[2, 3\]",
        ),
    ],
)
def test_inconsistent_synapses(make, message):
    with pytest.raises(ExportError, match=message):
        make()


def two_layers():
    first = lif("first", (3, 4, 4), conv("input", 3, 2), vth=1)
    return network(first, lif("second", (5,), dense("first", 5, 48)), inputs=(2, 6, 6))


def second(synapse: IntegerSynapse, shape: tuple[int, ...] = (5,), name: str = "second"):
    """The two layers with a changed second one."""
    net = two_layers()
    return {"layers": (net.layers[0], lif(name, shape, synapse))}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            lambda: second(dense("frist", 5, 48)),
            r"layer 'second': its source 'frist' is not among what comes before it \(input, first\)"
            r"\. Did you mean 'first'\?",
        ),
        (lambda: second(dense("second", 5, 5)), "its source 'second' is not among what comes bef"),
        (
            lambda: {"layers": two_layers().layers[::-1]},
            "layer 'second': its source 'first' is not",
        ),
        (
            lambda: second(dense("first", 5, 47)),
            r"layer 'second': weights of shape \[5, 47\] do not fit 'first', which has the shape "
            r"\[3, 4, 4\]",
        ),
        (
            lambda: second(conv("first", 5, 2), (5, 2, 2)),
            r"weights of shape \[5, 2, 3, 3\] do not fit 'first'",
        ),
        (
            lambda: second(conv("first", 5, 3), (5, 3, 3)),
            r"layer 'second': its weights make a map \[5, 2, 2\] of 'first'; it has the shape "
            r"\[5, 3, 3\]",
        ),
        (lambda: second(conv("first", 5, 3, padding=(1, 0)), (5, 2, 2)), r"make a map \[5, 4, 2\]"),
        (
            lambda: second(dense("first", 5, 48), name="first"),
            "layer 'first': another one has this",
        ),
        (
            lambda: second(dense("first", 5, 48), name="input"),
            "layer 'input': another one has this",
        ),
        (lambda: second(dense("first", 5, 48), name="readout"), "layer 'readout': another one has"),
        (lambda: {"layers": ()}, "an integer network has at least one spiking layer; got none"),
        (
            lambda: {"layers": two_layers().layers[:1]},
            "layer 'readout': its source 'second' is not",
        ),
        (
            lambda: {"input_shape": (2, 6)},
            r"input: its shape must be \[N\] or \[C, H, W\]; got \[2, 6",
        ),
        (lambda: {"input_shape": (72,)}, "layer 'first': weights of .* do not fit 'input'"),
        (lambda: {"input_bits": 1}, "input: frames have 2 to 32 bits; got 1"),
        (
            lambda: {"input_unit": 0},
            "input_unit must be at least 1 and dt_ms above 0; got 0 and 1.0",
        ),
        (lambda: {"dt_ms": float("nan")}, "dt_ms above 0; got 127 and nan"),
    ],
)
def test_inconsistent_networks(changes, message):
    with pytest.raises(ExportError, match=message):
        replace(two_layers(), **changes())
