"""Branching ratio and local expansion: values by hand, gradients, applicable models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neuro.errors import ConfigError
from neuro.learning.losses.criticality import Branching, LocalExpansion
from tests.fakes import FakeData, linear
from tests.learning.terms import Rings, rings_batch, run_term
from tests.learning.test_state_losses import assert_gradient
from tests.networks import network

SPEC = FakeData().spec("fast")


def sigma_by_hand(model, batch):
    """sum_n |s_n| sum_k |J_kn| / sum_n |phi_n| of the ring, node by node."""
    names = ("layer0/s", "layer1/s")
    traces = model(batch.inputs, dt_ms=1.0, record=names).records
    x, s = (traces[name].detach().numpy() for name in names)
    into, ring, out = (
        w.detach().numpy() for w in (model.weight_in, model.weight_ring, model.weight_out)
    )
    steps, samples, nodes = s.shape
    ratios = []
    for b in range(samples):
        passed_on = received = 0.0
        for n in range(nodes):
            strength = np.abs(ring[:, n]).sum() + np.abs(out[:, n]).sum()
            passed_on += np.mean([abs(s[t, b, n]) for t in range(steps)]) * strength
            phi = [into[n] @ x[t, b] + ring[n] @ s[t, b] for t in range(steps)]
            received += np.mean(np.abs(phi))
        ratios.append(passed_on / received)
    return np.array(ratios)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"target_sigma": 0.7}, {"factor": 3.0}, {"use_log_loss": False},
        {"use_log_loss": False, "target_sigma": 2.0}, {"clamp_max": 1.01}, {"clamp_min": 9.9},
    ],
)  # fmt: skip
def test_branching_by_hand(options):
    model, batch = Rings(), rings_batch()
    given = {"target_sigma": 1.0, "clamp_min": 0.1, "clamp_max": 10.0, "factor": 1.0, **options}
    sigma = sigma_by_hand(model, batch)
    quotient = np.clip(sigma / given["target_sigma"], given["clamp_min"], given["clamp_max"])
    costs = np.log(quotient) ** 2
    if not options.get("use_log_loss", True):
        costs = (sigma - given["target_sigma"]) ** 2
    found = run_term(Branching(**options), model, batch).item()
    assert found == pytest.approx(given["factor"] * costs.mean())


@pytest.mark.parametrize("log", [True, False])
def test_the_gradient_of_branching_by_finite_differences(log):
    assert_gradient(Branching(use_log_loss=log), Rings(), rings_batch())


def test_branching_needs_matrices_on_both_sides():
    for model in (network("lif"), linear()):
        with pytest.raises(ConfigError, match="has none. Use model=soen with three layers"):
            Branching().records(model)
    assert Branching().records(Rings()) == ("layer0/s", "layer1/s", "layer2/s")
    with pytest.raises(ValueError, match=r"clamp_min \(3.0\) must be below clamp_max \(2.0\)"):
        Branching(clamp_min=3.0, clamp_max=2.0)


def expansion_by_hand(model, batch, noise, *, perturbed="all", target_value=1.0, use_log_loss=True,
                      clamp_min=0.01, clamp_max=100.0):  # fmt: skip
    """Both runs with numpy's norms, step by step."""
    changed = batch.inputs.clone()
    if perturbed == "all":
        changed += noise
    else:
        changed[:, 0] += noise
    states = []
    for inputs in (batch.inputs, changed):
        found = model(inputs, dt_ms=1.0, record=("layer1/s", "layer2/s")).records
        states.append(torch.cat([found["layer1/s"], found["layer2/s"]], 2).detach().numpy())
    distance = np.sqrt(((states[1] - states[0]) ** 2).sum(2))
    costs = []
    for t in range(len(distance) - 1):
        for before, after in zip(distance[t], distance[t + 1], strict=True):
            ratio = min(max(after / before, clamp_min), clamp_max)
            away = np.log(ratio / target_value) if use_log_loss else ratio - target_value
            costs.append(away**2)
    return np.mean(costs)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"target_value": 2.0}, {"perturbed": "first"}, {"use_log_loss": False},
        {"perturbation_scale": 1e-2}, {"clamp_min": 1.5}, {"clamp_max": 0.9},
    ],
)  # fmt: skip
def test_local_expansion_by_hand(options):
    model, batch = Rings(), rings_batch()
    shape = batch.inputs[:, 0] if options.get("perturbed") == "first" else batch.inputs
    torch.manual_seed(3)
    noise = options.get("perturbation_scale", 1e-5) * torch.randn_like(shape)
    torch.manual_seed(3)
    found = run_term(LocalExpansion(**options), model, batch).item()
    rest = {k: v for k, v in options.items() if k != "perturbation_scale"}
    assert found == pytest.approx(expansion_by_hand(model, batch, noise, **rest))


class Noisy(Rings):
    """Add noise to the inputs in training."""

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        inputs = inputs + 0.1 * torch.randn_like(inputs)
        return super().forward(inputs, state, dt_ms=dt_ms, record=record)


@pytest.mark.parametrize("kind", [Rings, Noisy])
def test_perturbing_the_first_step_measures_the_networks_expansion(kind):
    """With a leak only, the distance halves in each step if both runs have the same noise."""
    model = kind(leak=0.5)
    with torch.no_grad():
        model.weight_ring.zero_()
    loss = run_term(LocalExpansion(perturbed="first"), model, rings_batch()).item()
    assert loss == pytest.approx(np.log(0.5) ** 2, rel=1e-4)


def test_the_clean_run_is_detached():
    model, batch = Rings(), rings_batch()
    graphs = []
    model.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))
    torch.manual_seed(3)
    term = LocalExpansion(perturbation_scale=1e-2)
    run_term(term, model, batch).backward()
    assert graphs == [
        True,
        False,
        True,
    ]  # the objective's forward pass, the clean run, the perturbed run
    found = model.weight_ring.grad.clone()
    clean = Rings()
    names = tuple(model.activity_records().values())
    torch.manual_seed(3)
    noise = 1e-2 * torch.randn_like(batch.inputs)

    def loss(w):
        """The loss with a constant clean run."""
        moved = Rings()
        moved.weight_ring = torch.nn.Parameter(w)
        runs = [
            torch.cat([m(x, dt_ms=1.0, record=names).records[n] for n in names], 2).detach()
            for m, x in ((clean, batch.inputs), (moved, batch.inputs + noise))
        ]
        d = torch.linalg.vector_norm(runs[1] - runs[0], dim=2)
        return (d[1:] / d[:-1]).clamp(0.01, 100).log().square().mean().item()

    for i in (0, 7):
        ends = []
        for step in (1e-7, -1e-7):
            w = clean.weight_ring.detach().clone()
            w.view(-1)[i] += step
            ends.append(loss(w))
        assert found.view(-1)[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-7, rel=1e-3)


@pytest.mark.parametrize("perturbed", ["all", "first"])
def test_the_whole_gradient_by_finite_differences(perturbed):
    class Seeded(LocalExpansion):
        def forward(self, *args):
            torch.manual_seed(3)
            return super().forward(*args)

    term = Seeded(detach_clean=False, perturbation_scale=1e-3, perturbed=perturbed)
    assert_gradient(term, Rings(), rings_batch())


def test_the_loss_without_differences_is_zero():
    model, batch = Rings(), rings_batch(steps=1)
    assert run_term(LocalExpansion(), model, batch).item() == 0  # one step has no successor
    with torch.no_grad():
        model.weight_in.zero_()  # the perturbation has no effect
    loss = run_term(LocalExpansion(), model, rings_batch())
    loss.backward()
    assert loss.item() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_local_expansion_refuses_spiking_networks():
    with pytest.raises(ConfigError, match="spikes of SpikingCNN are all or nothing"):
        LocalExpansion().check(network("lif"), SPEC)
    with pytest.raises(ConfigError, match="layers' activity, which Linear does not make"):
        LocalExpansion().check(linear(), SPEC)
    LocalExpansion().check(Rings(), SPEC)
