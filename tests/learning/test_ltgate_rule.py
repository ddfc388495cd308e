"""LT-Gate's local rule against a literal loop over time, samples and places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.layers.dual_timescale import DualTimescaleLayer
from neuro.layers.spiking import PART_BYTES
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.rules.ltgate import BRANCHES, GateVariance, Hebbian
from neuro.learning.step import TrainStep
from neuro.learning.terms import Term
from neuro.models.spiking_cnn import SpikingCNN
from tests.fakes import FakeData
from tests.networks import network

PLAIN: dict[str, Any] = {"centre": False, "forget": False, "eta_v": None, "homeostasis": 0.0}


def batch_of(frames: int = 6, samples: int = 5, held: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(samples, 1 if held else frames, 1, 6, 6, generator=generator)
    return Batch(inputs, torch.arange(samples) % 2, 1.0, frames if held else None)


def run(model: SpikingCNN, term: Term, batch: Batch):
    with torch.no_grad():
        record = dict.fromkeys(term.records(model))
        record |= dict.fromkeys(name.replace("packed_", "") for name in term.records(model))
        output = model(batch.sequence(), dt_ms=batch.dt_ms, record=tuple(record))
    model.zero_grad()
    result = term(model, batch, output)
    if result.loss.requires_grad:
        result.loss.backward()
    return output, result


def patches(synapse: nn.Module, x: Tensor) -> Tensor:
    """The patch of a frame at each output place, `[B, D, L]`."""
    if isinstance(synapse, nn.Conv2d):
        return F.unfold(x, 3, padding=1, stride=synapse.stride)
    return x.flatten(1).unsqueeze(-1)


def literal_direction(
    layer: DualTimescaleLayer, branch: str, inputs: Tensor, post: Tensor, centre: bool, forget: bool
) -> Tensor:
    """dW of one branch by the equations, step by step."""
    synapse = getattr(layer, branch)
    flat_post = post.flatten(3) if post.ndim > 3 else post.unsqueeze(-1)  # [T, B, C, L]
    mean_post = flat_post.mean((0, 1, 3))
    if centre:
        flat_post = flat_post - mean_post[:, None]
    trace = torch.zeros_like(inputs[0])
    total = torch.zeros_like(synapse.weight).flatten(1)
    for t in range(len(inputs)):
        trace = 0.8 * trace + inputs[t]
        total += torch.einsum("bcl,bdl->cd", flat_post[t], patches(synapse, trace))
    change = total / (flat_post.shape[0] * flat_post.shape[1] * flat_post.shape[3])
    if forget:
        change = 0.2 * change - mean_post[:, None] * synapse.weight.flatten(1)
    return change.view_as(synapse.weight)


@pytest.mark.parametrize("part_bytes", [1, 2000, PART_BYTES])  # one, some, or all samples at once
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(("centre", "forget"), [(False, False), (True, False), (True, True)])
def test_directions_equal_a_loop_over_time(
    held: bool, centre: bool, forget: bool, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuro.learning.rules.ltgate.PART_BYTES", part_bytes)
    model = network("ltgate", gate="fixed", gamma=0.25)
    term = Hebbian(centre=centre, forget=forget, eta_v=None, homeostasis=0.0)
    output, _ = run(model, term, batch_of(held=held))
    for name, layer in model.layers.items():
        for branch, share in (("fast", 0.25), ("slow", 0.75)):
            post = output.records[f"{name}/{branch}_spikes"]
            expected = literal_direction(
                layer, branch, output.records[f"{name}/inputs"], post, centre, forget
            )
            gradient = getattr(layer, branch).weight.grad
            torch.testing.assert_close(-gradient, share * expected, atol=1e-6, rtol=1e-4)
            assert gradient.abs().max() > 0


def test_a_gate_at_one_updates_the_fast_branch_only() -> None:
    model = network("ltgate", gate="fixed", gamma=1.0)
    run(model, Hebbian(**PLAIN), batch_of())
    for layer in model.layers.values():
        assert layer.fast.weight.grad.abs().max() > 0
        assert layer.slow.weight.grad.abs().max() == 0


def test_projection_removes_the_component_along_the_principal_vector() -> None:
    model = network("ltgate", gate="fixed", gamma=0.5)
    _, result = run(model, Hebbian(**{**PLAIN, "eta_v": 1e-3}), batch_of())
    for name, layer in model.layers.items():
        for index, branch in enumerate(BRANCHES):
            v = layer.principal[index]
            gradient = getattr(layer, branch).weight.grad.flatten(1)
            assert (v @ gradient).abs().max() < 1e-5 * gradient.abs().max() + 1e-8
        moved = layer.principal + result.updates[f"layers.{name}.principal"].value
        torch.testing.assert_close(moved.norm(dim=1), torch.ones(2))


def test_principal_vectors_find_the_main_direction_of_the_rates() -> None:
    """Oja's rule turns v towards the first eigenvector of <a a^T>."""
    term = Hebbian(**{**PLAIN, "eta_v": 0.1})
    model = network("ltgate")
    layer = model.layers["dense"]
    generator = torch.Generator().manual_seed(0)
    rates = torch.rand(64, 6, generator=generator) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    v = layer.principal[0].clone()
    change, mean_trace = torch.zeros_like(layer.fast.weight), torch.zeros(1, 1)
    for _ in range(300):
        v, _ = term._branch(layer.fast, change, mean_trace, rates, v)
    first = torch.linalg.eigh(rates.T @ rates)[1][:, -1]
    assert abs(float(v @ first)) > 0.999


def test_thresholds_follow_the_rate() -> None:
    model = network("ltgate")
    batch = batch_of()
    term = Hebbian(homeostasis=2.0, target_rate=0.99)  # every layer has a lower rate
    output, result = run(model, term, batch)
    for name, layer in model.layers.items():
        rate = output.records[f"{name}/rate"].mean()
        change = result.updates[f"layers.{name}.threshold"].value
        expected = layer.threshold * (torch.exp(2.0 * (rate - 0.99)) - 1)
        torch.testing.assert_close(change, expected)
        assert change < 0


def test_zero_plasticity_gives_no_update_and_no_traces() -> None:
    model = network("ltgate")
    model.consolidate([])
    assert model.plasticity == 0
    term = Hebbian()
    assert term.records(model) == ()
    _, result = run(model, term, batch_of())
    assert not result.loss.requires_grad
    assert result.updates == {}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_plasticity_scales_the_update(share: float) -> None:
    model = network("ltgate", gate="fixed", share=share)
    run(model, Hebbian(**PLAIN), batch_of())
    before = model.layers["dense"].fast.weight.grad.clone()
    model.consolidate([])
    run(model, Hebbian(**PLAIN), batch_of())
    after = model.layers["dense"].fast.weight.grad
    torch.testing.assert_close(after, (1 - share) * before)


def test_gate_variances_move_towards_the_variance_over_the_batch() -> None:
    model = network("ltgate", gate_rate=0.25)
    output, result = run(model, GateVariance(), batch_of())
    for name, layer in model.layers.items():
        for branch in BRANCHES:
            rate = output.records[f"{name}/{branch}_rate"]
            per_sample = rate.flatten(2).mean(2) if rate.ndim > 2 else rate
            variance = per_sample.var(0, unbiased=False)
            change = result.updates[f"layers.{name}.gate.{branch}_variance"].value
            old = getattr(layer.gate, f"{branch}_variance")
            torch.testing.assert_close(old + change, 0.75 * old + 0.25 * variance)


def test_other_networks_are_refused() -> None:
    spec = FakeData().spec("fast")
    for term in (Hebbian(), GateVariance()):
        with pytest.raises(ConfigError, match=r"SpikingCNN has none.*model=ltgate"):
            term.check(network("lif"), spec)


def saved_bytes(step: TrainStep, batch: Batch) -> int:
    """Bytes that autograd saves for the backward pass of a training step."""
    total = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(batch)
    return total


def test_memory_of_the_local_rule_does_not_depend_on_the_length() -> None:
    """Saved tensors have the size of the weights for sequences of any length."""
    model = network("ltgate")
    step = TrainStep(model, Objective({"hebbian": Hebbian(), "gate": GateVariance()}))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    short, long = (saved_bytes(step, batch_of(frames)) for frames in (4, 64))
    assert short == long
    assert 0 < long <= 2 * weights
    surrogate = TrainStep(
        network("ltgate", readout="linear"), Objective({"cross_entropy": CrossEntropy()})
    )
    assert saved_bytes(surrogate, batch_of(256)) > 8 * saved_bytes(surrogate, batch_of(4)) > long
