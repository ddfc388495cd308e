"""Delays of layers: constant, learned for channels and for synapses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from neuro.layers.delays import AxonalDelays, ConstantDelays, DelayKind, Delays
from neuro.layers.synapse import Dense, currents


def test_constant_delays_shift_each_channel() -> None:
    line = ConstantDelays(3, 4.0, longest=2)
    line.delays_ms.copy_(torch.tensor([0.0, 2.1, 4.0]))
    x = torch.arange(1.0, 6.0).view(5, 1, 1).expand(5, 1, 3)
    delayed, state = line(x, None, 2.0)
    expected = [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2], [5, 4, 3]]
    assert delayed[:, 0].tolist() == expected
    assert state.shape == (1, 2, 3)
    continued, _ = line(x, state, 2.0)
    assert continued[0, 0].tolist() == [1, 5, 4]
    half, _ = line(x, None, 4.0)  # the same delays in longer steps
    assert half[1, 0].tolist() == [2, 1, 1]


def axonal(positions_ms: list[float], max_ms: float = 20.0, width: float = 0.01) -> AxonalDelays:
    line = AxonalDelays(len(positions_ms), max_ms, longest=10, width=width)
    line.position_ms.raw.data = (torch.tensor(positions_ms) / max_ms).logit()
    return line


def test_learned_delays_are_whole_steps_in_evaluation() -> None:
    line = axonal([1.2, 6.9], width=3.0)
    x = torch.zeros(8, 1, 2)
    x[0] = 1
    trained, _ = line(x, None, 2.0)
    assert ((trained > 0) & (trained < 0.5)).any(0).all()  # spread over several steps
    evaluated, _ = line.eval()(x, None, 2.0)
    assert evaluated[:, 0, 0].nonzero().tolist() == [[1]]  # 1.2 ms are 0.6 steps
    assert evaluated[:, 0, 1].nonzero().tolist() == [[3]]
    line.train().width.fill_(0.01)
    narrow, _ = line(x, None, 2.0)
    torch.testing.assert_close(narrow, evaluated)


def test_delays_are_bounded() -> None:
    line = axonal([5.0])
    for raw, bound in ((1e4, 20.0), (-1e4, 0.0)):
        line.position_ms.raw.data.fill_(raw)
        assert line.position_ms.value().item() == bound
        for training in (True, False):
            out, _ = line.train(training)(torch.ones(12, 1, 1), None, 2.0)
            assert out.isfinite().all() and out[-1].item() == pytest.approx(1.0, abs=1e-5)


def test_synaptic_delays_are_those_of_each_weight() -> None:
    delays = Delays("synaptic", 6.0, dt_ms=2.0, width=1.0)
    synapse: Any = delays.synapse(Dense(2, 3, bias=False)).eval()
    synapse.position.raw.data = (torch.tensor([0.2, 1, 2, 2.9, 1, 0.1]) / 3).logit()
    line = delays.line(2)
    x = torch.zeros(5, 1, 2)
    x[0, 0, 0], x[1, 0, 1] = 1, 2
    known, _ = line(x, None, 2.0)
    (found,) = currents([synapse], known)
    weight = synapse.synapse.weight.detach()
    expected = torch.zeros(5, 3)
    for target, (early, late) in enumerate([(0, 1), (2, 3), (1, 0)]):
        expected[early, target] += weight[target, 0]
        expected[1 + late, target] += 2 * weight[target, 1]
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-4, atol=1e-6)
    doubled = currents([synapse], known, gain=torch.tensor([1.0, 2, 1]))[0]
    torch.testing.assert_close(doubled[:, 0, 1], 2 * found[:, 0, 1])


@pytest.mark.parametrize("kind", ["axonal", "synaptic"])
def test_gradient_descent_finds_a_delay(kind: DelayKind) -> None:
    """Starts elsewhere; the width shrinks from half of the longest delay to 0.5."""
    torch.manual_seed(0)
    x = (torch.rand(60, 16, 2) < 0.1).float()
    target = torch.zeros(60, 16)
    target[13:] += x[:-13, :, 0]
    target[4:] += x[:-4, :, 1]
    delays = Delays(kind, 20.0, dt_ms=1.0, width=10.0)
    line: Any = delays.line(2)
    synapse: Any = delays.synapse(Dense(2, 1, bias=False))
    if kind == "axonal":
        learned, position, weight = line, line.position_ms, synapse.weight
    else:
        learned, position, weight = synapse, synapse.position, synapse.synapse.weight
    position.raw.data = torch.tensor([-1.0, 1.0])
    weight.data.fill_(1.0)
    optimizer = torch.optim.Adam([position.raw], lr=0.1)
    for number in range(150):
        learned.width.fill_(10 * 0.05 ** (number / 149))
        known, _ = line(x, None, 1.0)
        loss = (currents([synapse], known)[0][..., 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert position.value().round().tolist() == [13, 4]
    line.eval()
    synapse.eval()
    known, _ = line(x, None, 1.0)
    torch.testing.assert_close(currents([synapse], known)[0][..., 0], target, rtol=0, atol=1e-5)
