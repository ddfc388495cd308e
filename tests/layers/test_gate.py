"""Gates: the variance rule against values computed by hand, learned and fixed gates."""

from __future__ import annotations

import pytest
import torch

from neuro.layers.gate import FixedGate, Gating, LearnedGate, VarianceGate


def test_variance_over_the_batch_of_each_channels_mean_rate():
    gate = VarianceGate(2, rate=0.1, start=0.5)
    fast = torch.tensor(
        [[[[0.0, 1.0]], [[1.0, 1.0]]], [[[1.0, 1.0]], [[1.0, 1.0]]]]
    )  # [B, C, H, W]
    slow = torch.tensor([[0.0, 0.2], [0.4, 0.2]])  # [B, C], as in a dense layer
    change = gate.change(fast, slow)
    # mean rates of channel 0 are 0.5 and 1, of channel 1 both 1
    expected = 0.1 * (torch.tensor([0.0625, 0.0]) - 0.5)
    torch.testing.assert_close(change["fast_variance"], expected)
    torch.testing.assert_close(
        change["slow_variance"], 0.1 * (torch.tensor([0.04, 0.0]) - 0.5), atol=1e-7, rtol=0
    )
    assert torch.equal(gate.fast_variance, torch.full((2,), 0.5))  # only the trainer applies it


def test_the_branch_with_less_variance_is_selected_and_ties_are_fast():
    gate = VarianceGate(3)
    assert torch.equal(gate.gamma(), torch.ones(3))
    gate.fast_variance.copy_(torch.tensor([1.0, 2.0, 3.0]))
    gate.slow_variance.copy_(torch.tensor([2.0, 2.0, 2.0]))
    assert torch.equal(gate.gamma(), torch.tensor([1.0, 1.0, 0.0]))


def test_a_learned_gate_starts_at_its_initial_value_and_has_a_gradient():
    gate = LearnedGate(2, 0.3)
    torch.testing.assert_close(gate.gamma(), torch.full((2,), 0.3))
    gate.gamma().sum().backward()
    torch.testing.assert_close(gate.logit.grad, torch.full((2,), 0.3 * 0.7))


def test_a_fixed_gate_has_no_parameters_but_is_saved():
    gate = FixedGate(2, 0.25)
    assert torch.equal(gate.gamma(), torch.full((2,), 0.25))
    assert not list(gate.parameters())
    assert set(gate.state_dict()) == {"value"}


@pytest.mark.parametrize(
    "kind, cls", [("variance", VarianceGate), ("learned", LearnedGate), ("fixed", FixedGate)]
)
def test_gates_by_name(kind, cls):
    gate = Gating(kind, gamma=0.5, rate=0.25).make(4)
    assert type(gate) is cls
    assert gate.gamma().shape == (4,)
    assert getattr(gate, "rate", 0.25) == 0.25
