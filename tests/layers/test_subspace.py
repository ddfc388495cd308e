"""HLOP's synapses: the protected subspace, and learning it by Oja's rule."""

from __future__ import annotations

import pytest
import torch

from neuro.layers.subspace import ProtectedSynapse
from neuro.layers.synapse import convolution, dense


def protected(inputs=8, outputs=3, neurons=2, seed=0):
    torch.manual_seed(seed)
    return ProtectedSynapse(dense(inputs, outputs), neurons)


def flat_data(rank=2, size=400, inputs=8, seed=0):
    """Inputs that lie almost within a subspace, and its basis `[D, rank]`."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(inputs, rank, generator=generator))[0]
    strength = torch.linspace(3, 2, rank)
    x = (torch.randn(size, rank, generator=generator) * strength) @ basis.T
    return x + 0.01 * torch.randn(size, inputs, generator=generator), basis


def adapt(synapse, x, steps=200):
    for _ in range(steps):
        synapse.lateral += synapse.oja(x, 0.5)


def test_ojas_rule_finds_the_principal_subspace():
    synapse = protected()
    x, basis = flat_data()
    adapt(synapse, x)
    q = torch.linalg.qr(synapse.lateral.T)[0]
    torch.testing.assert_close(q @ q.T, basis @ basis.T, atol=0.02, rtol=0)
    torch.testing.assert_close(synapse.lateral.norm(dim=1), torch.ones(2), atol=0.05, rtol=0)


def test_ojas_change_does_not_depend_on_the_scale_of_rates():
    synapse = protected()
    x, _ = flat_data()
    torch.testing.assert_close(synapse.oja(x, 0.1), synapse.oja(1000 * x, 0.1))
    assert not synapse.oja(torch.zeros(4, 8), 0.1).any()


def test_protection_keeps_outputs_for_earlier_inputs():
    synapse = protected()
    x, _ = flat_data()
    adapt(synapse, x)
    synapse.protect()
    before = synapse(x[:20]).detach()
    new = torch.randn(50, 8, generator=torch.Generator().manual_seed(5))
    start = synapse.synapse.weight.detach().clone()
    optimizer = torch.optim.SGD(synapse.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        (synapse(new) - 1).square().mean().backward()
        optimizer.step()
    assert (synapse.synapse.weight - start).norm() > 0.5
    drift = (synapse(x[:20]) - before).norm() / before.norm()
    assert drift < 0.02
    free = protected()
    free.synapse.weight.data.copy_(start)
    optimizer = torch.optim.SGD(free.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        (free(new) - 1).square().mean().backward()
        optimizer.step()
    assert (free(x[:20]) - before).norm() / before.norm() > 0.2


def test_the_gradient_is_the_projected_one():
    synapse = protected()
    synapse.protect()
    x = torch.randn(5, 8)
    synapse(x).square().sum().backward()
    grad = synapse.synapse.weight.grad
    full = torch.autograd.grad(synapse.synapse(x).square().sum(), synapse.synapse.weight)[0]
    torch.testing.assert_close(grad, full - full @ synapse.projector)
    assert (grad @ synapse.projector).abs().max() < 1e-4
    assert torch.equal(synapse(x), synapse.synapse(x))


def is_projector(matrix):
    torch.testing.assert_close(matrix @ matrix, matrix, atol=1e-4, rtol=0)
    torch.testing.assert_close(matrix, matrix.T, atol=1e-5, rtol=0)


def test_subspaces_of_tasks_add_up_to_one_projector():
    synapse = protected(inputs=8, neurons=3)
    for task, rank in enumerate([3, 6, 8, 8, 8]):  # the third task uses up all dimensions
        adapt(synapse, flat_data(rank=3, seed=task)[0], steps=20)
        synapse.protect()
        is_projector(synapse.projector)
        assert torch.linalg.matrix_rank(synapse.projector, tol=1e-3) == rank
        assert (synapse.lateral @ synapse.projector).abs().max() < 1e-5


def test_oja_changes_are_orthogonal_to_the_protected_subspace():
    synapse = protected(neurons=2)
    x, _ = flat_data()
    adapt(synapse, x)
    synapse.protect()
    mixed = x + flat_data(rank=2, seed=9)[0]
    change = synapse.oja(mixed, 0.5)
    assert (change @ synapse.projector).abs().max() < 1e-5
    assert change.abs().max() > 1e-3


def test_more_neurons_than_inputs():
    assert ProtectedSynapse(convolution(1, 4, 1), 20).lateral.shape == (9, 9)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_protect_their_patches(stride):
    torch.manual_seed(0)
    synapse = ProtectedSynapse(convolution(2, 3, stride), 4)
    image = torch.rand(1, 2, 5, 5)
    patches = synapse._presynaptic(image)
    weight = synapse.synapse.weight.flatten(1)
    torch.testing.assert_close((patches @ weight.T).T, synapse.synapse(image)[0].flatten(1))
    for _ in range(300):
        synapse.lateral += synapse.oja(image, 0.5)
    synapse.protect()
    missed = (patches - patches @ synapse.projector).square().sum()
    least = torch.linalg.svdvals(patches)[4:].square().sum()  # the best result with four directions
    assert missed == pytest.approx(float(least), rel=0.05)
