"""Lava's process graph: equality with the engine in every spike, and no side effects."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neuro.errors import BackendUnavailable, ExportError
from neuro.hardware.lava import network as lava
from neuro.hardware.loihi2 import engine
from neuro.hardware.loihi2.comparison import first_difference
from neuro.hardware.loihi2.integer import (
    MEMORYLESS,
    STATE_LIMIT,
    IntegerDualLIF,
    IntegerLIF,
    IntegerNetwork,
    IntegerReadout,
    IntegerSynapse,
)
from tests.hardware.networks import (
    delayed_network,
    random_inputs,
    random_network,
    recurrent_network,
)


def active_network(
    seed: int, batch: int = 3, steps: int = 7, make: Any = random_network, **kind: Any
) -> tuple[IntegerNetwork, np.ndarray]:
    """A random network and inputs for which every layer fires, but not at every step."""
    rng = np.random.default_rng(seed)
    while True:
        network = make(rng, **kind)
        inputs = random_inputs(rng, network, batch, steps)
        spikes = engine.run(network, inputs, record_spikes=True).spikes
        rates = [fired.mean() for fired in spikes.values()]
        if all(0.01 < rate < 0.99 for rate in rates):
            return network, inputs


def assert_equal(network: IntegerNetwork, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Assert equal spikes and readouts of Lava and the engine; return the spikes."""
    expected = engine.run(network, inputs, record_spikes=True)
    output = lava.simulate(network, inputs)
    difference = first_difference(expected.spikes, output.spikes)
    assert difference is None, f"engine and Lava: {difference}"
    for synapse, there, here in zip(
        network.readout.synapses, expected.readout, output.readout, strict=True
    ):
        np.testing.assert_array_equal(there, here, err_msg=synapse.source)
        assert here.dtype == there.dtype
    assert multiprocessing.active_children() == []
    return output.spikes


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (1, {"connections": ["conv", "conv", "dense"], "neurons": ["lif", "gate", "or"]}),
        (2, {"connections": ["conv", "dense"], "neurons": ["gate", "lif"], "reset": "zero"}),
        (3, {"connections": ["dense", "dense"], "neurons": ["or", "lif"], "reset": "subtract"}),
        (4, {"connections": ["conv", "dense"], "neurons": ["lif", "gate"], "input_bits": 1}),
    ],
    ids=["maps", "zero", "subtract", "spikes in"],
)
def test_every_spike_and_readout_equals_the_engine(seed, kind):
    assert_equal(*active_network(seed, **kind))


@pytest.mark.parametrize(
    ("seed", "kind"),
    [
        (1, {"connections": ["dense", "dense"], "neurons": ["lif", "gate"], "input_bits": 8}),
        (2, {"connections": ["conv", "dense"], "neurons": ["lif", "lif"], "input_bits": 1}),
    ],
    ids=["graded", "spikes in"],
)
def test_recurrent_networks_equal_the_engine(seed, kind):
    """Recurrent spikes in transit do not reach the next sample."""
    assert_equal(*active_network(seed, make=recurrent_network, **kind))


def test_delays_equal_the_engine():
    """Delayed sums in transit do not reach the next sample."""
    kind = {"connections": ["dense", "dense"], "neurons": ["lif", "gate"]}
    network, inputs = active_network(3, make=delayed_network, input_bits=6, **kind)
    assert any(s.delays is not None for layer in network.layers for s in layer.synapses)
    assert_equal(network, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_delayed_networks_equal_the_engine(seed):
    rng = np.random.default_rng(3000 + seed)
    longest = int(rng.integers(1, 20))
    network = delayed_network(rng, longest)
    assert_equal(network, random_inputs(rng, network, 3, int(rng.integers(1, 12))))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_random_recurrent_networks_equal_the_engine(seed):
    rng = np.random.default_rng(2000 + seed)
    batch, steps = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    if seed % 2:
        assert_equal(*active_network(seed, batch, steps, recurrent_network))
    else:
        network = recurrent_network(rng)
        assert_equal(network, random_inputs(rng, network, batch, steps))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_random_networks_equal_the_engine(seed):
    rng = np.random.default_rng(1000 + seed)
    batch, steps = int(rng.integers(1, 5)), int(rng.integers(1, 12))
    if seed % 2:
        assert_equal(*active_network(seed, batch, steps))
    else:  # any network, including silent and saturated layers
        network = random_network(rng)
        assert_equal(network, random_inputs(rng, network, batch, steps))


def dense_lif(weight: np.ndarray, **options: Any) -> IntegerLIF:
    synapse = IntegerSynapse("input", weight.astype(np.int32), graded=True)
    defaults: dict[str, Any] = {"dv": 0, "vth": 1000, "reset": "subtract"}
    return IntegerLIF("layer1", (len(weight),), synapse, **{**defaults, **options})


def network_of(*layers: IntegerLIF | IntegerDualLIF, inputs: int, bits: int) -> IntegerNetwork:
    last = layers[-1]
    read = IntegerSynapse(last.name, np.full((2, last.shape[0]), -3, np.int32))
    return IntegerNetwork(
        input_shape=(inputs,),
        input_bits=bits,
        input_unit=1,
        dt_ms=1.0,
        layers=layers,
        readout=IntegerReadout((read,), (1.0,), np.zeros(2)),
    )


@pytest.mark.parametrize("du", [0, MEMORYLESS])
def test_current_wraps_and_voltage_saturates_as_in_the_engine(du):
    """Odd weights of one sign, with sums up to 1.5 times the range of 24 bits."""
    rng = np.random.default_rng(du)
    inputs = rng.integers(0, 390, (2, 9, 2)).astype(np.int32)
    for weight in (np.array([[255, 255], [201, 101]]), np.array([[-255, -255], [-7, -255]])):
        shifted = (inputs @ weight.T) << 6
        assert (np.abs(shifted) >= STATE_LIMIT).any()
        assert (np.abs(np.cumsum(shifted, axis=1)) >= STATE_LIMIT).any()
        mantissa = np.array([4095, -4096], np.int32)
        layer = dense_lif(weight, du=du, bias_mantissa=mantissa, bias_exponent=7)
        assert_equal(network_of(layer, inputs=2, bits=10), inputs)


def test_single_units_of_a_state_have_an_effect():
    """Thresholds of 0 and inputs of 1 (64 units of v) make resets and rounding visible.

    With dv = 1 a state below 4096 units decays by one per step, as its magnitude is shifted: -64
    is 0 after 64 steps, and 64 then fires 32 times if a spike also subtracts one unit.
    """
    options: dict[str, Any] = {"shape": (1,), "vth": 0}
    synapse = IntegerSynapse("input", np.ones((1, 1), np.int32), graded=True)
    dual: dict[str, Any] = {"fast": synapse, "slow": synapse, "dv_fast": 1, "dv_slow": 1, **options}
    gamma = np.array([128], np.int32)
    layers = (
        IntegerLIF("subtract", synapse=synapse, dv=1, reset="subtract", **options),
        IntegerLIF("zero", synapse=synapse, dv=1, reset="zero", **options),
        IntegerDualLIF("gate", gamma=gamma, merge="gate", reset="subtract", **dual),
        IntegerDualLIF("gate zero", gamma=gamma, merge="gate", reset="zero", **dual),
        IntegerDualLIF("or", gamma=None, merge="or", reset="subtract", **dual),
        IntegerDualLIF("or zero", gamma=None, merge="or", reset="zero", **dual),
    )
    inputs = np.zeros((1, 110, 1), np.int32)
    inputs[0, [0, 70], 0] = -1, 1
    spikes = assert_equal(network_of(*layers, inputs=1, bits=2), inputs)
    assert {name: int(fired.sum()) for name, fired in spikes.items()} == {
        "subtract": 32,
        "zero": 1,
        "gate": 32,
        "gate zero": 1,
        "or": 32,
        "or zero": 1,
    }


def test_a_sample_of_one_step_is_reset_at_every_step():
    network, inputs = active_network(5, connections=["dense", "dense"], neurons=["gate", "lif"])
    assert_equal(network, inputs[:, :1])


def test_chunks_and_no_recording_give_the_same(monkeypatch):
    network, inputs = active_network(6, connections=["conv", "dense"], neurons=["or", "lif"])
    whole = lava.simulate(network, inputs)
    monkeypatch.setattr(lava, "CHUNK_STEPS", 4)
    calls: list[tuple[int, int]] = []
    parts = lava.simulate(
        network,
        inputs,
        record_spikes=False,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert parts.spikes == {}
    for there, here in zip(whole.readout, parts.readout, strict=True):
        np.testing.assert_array_equal(there, here)
    batch, steps = inputs.shape[:2]
    assert whole.steps == batch * steps + 3  # two layers and the readout
    assert calls == [(min(4 * i, whole.steps), whole.steps) for i in range(1, 7)]
    assert whole.seconds > 0


def test_simulation_has_no_side_effects_on_the_process(capfd):
    network, inputs = active_network(7, connections=["dense"], neurons=["lif"])
    before = inputs.copy()
    handlers, method = logging.getLogger().handlers[:], multiprocessing.get_start_method(True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    lava.simulate(network, inputs)
    np.testing.assert_array_equal(inputs, before)
    assert logging.getLogger().handlers == handlers
    assert multiprocessing.get_start_method(True) == method
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    assert capfd.readouterr() == ("", "")


def test_lava_is_imported_on_use_with_another_start_method():
    """Lava's import sets "fork" and fails if a start method is set, as by a data loader."""
    code = (
        "import multiprocessing, sys; multiprocessing.set_start_method('spawn')\n"
        "from neuro.hardware.lava.network import check_lava\n"
        "print('lava' in sys.modules, check_lava(), multiprocessing.get_start_method())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout == "False lava-nc 0.10.0, Loihi2SimCfg, fixed_pt spawn\n"


def test_an_error_while_running_ends_every_process():
    network, inputs = active_network(8, connections=["dense"], neurons=["lif"])

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lava.simulate(network, inputs, progress=stop)
    assert multiprocessing.active_children() == []


def test_a_killed_process_is_an_error(monkeypatch):
    network, inputs = active_network(9, connections=["dense"], neurons=["gate"])
    lava.check_lava()
    models = importlib.import_module("neuro.hardware.lava.processes.models")
    monkeypatch.setattr(models, "_integrate", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match=r"(?s)Lava's graph died:.*ZeroDivisionError"):
        lava.simulate(network, inputs)
    monkeypatch.setattr(models, "_integrate", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RuntimeError, match=r"Lava's graph died \(exit code -9\)"):
        lava.simulate(network, inputs)
    assert multiprocessing.active_children() == []


def test_two_inputs_of_different_delay_are_refused():
    weight = np.full((3, 3), 2, np.int32)
    first = dense_lif(weight)
    dual = IntegerDualLIF(
        name="late",
        shape=(3,),
        fast=IntegerSynapse("layer1", weight),
        slow=IntegerSynapse("input", weight, graded=True),
        dv_fast=1,
        dv_slow=1,
        vth=1,
        gamma=None,
        merge="or",
        reset="zero",
    )
    network = network_of(first, dual, inputs=3, bits=8)
    match = "layer 'late'.*from 'input' and 'layer1'.*by 0 and 1 steps.*backend=engine"
    with pytest.raises(ExportError, match=match):
        lava.check_network(network)
    lava.check_network(network_of(first, replace(dual, slow=dual.fast), inputs=3, bits=8))


def test_weights_that_lava_would_change_are_refused():
    layer = dense_lif(np.array([[3, -1]]))
    with pytest.raises(AssertionError, match="weights of mixed signs"):
        lava.simulate(network_of(layer, inputs=2, bits=8), np.ones((1, 1, 2), np.int32))


def test_without_lava_the_engine_is_offered(monkeypatch):
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(BackendUnavailable, match="make install.*--no-deps.*backend=engine"):
        lava.check_lava()
