"""DSD-SNN's synapses: growth, pruning, and protection of the weights of earlier tasks."""

from __future__ import annotations

import pytest
import torch

from neuro.layers.structure import FREE, StructuredSynapse
from neuro.layers.synapse import convolution, dense


def structured(inputs=4, outputs=6, seed=0):
    torch.manual_seed(seed)
    return StructuredSynapse(dense(inputs, outputs))


def test_growth_takes_free_neurons_only():
    synapse = structured()
    synapse.grow(2, task=0)
    assert synapse.owner.tolist() == [0, 0, FREE, FREE, FREE, FREE]
    synapse.grow(3, task=1)
    assert synapse.owner.tolist() == [0, 0, 1, 1, 1, FREE]
    synapse.grow(3, task=2)  # only one is left
    assert synapse.owner.tolist() == [0, 0, 1, 1, 1, 2]
    assert synapse.task == 2


def test_free_neurons_are_silent():
    synapse = structured()
    synapse.grow(2, task=0)
    out = synapse(torch.rand(3, 4))
    assert out[:, :2].abs().min() > 0
    assert not out[:, 2:].any()


def test_neurons_receive_from_their_own_and_earlier_tasks():
    synapse = structured()
    synapse.grow(2, task=0)
    synapse.listens_to.copy_(torch.tensor([0, 0, 1, FREE]))
    synapse.grow(2, task=1)
    used = synapse.weight() != 0
    assert used[:2].tolist() == [[True, True, False, False]] * 2
    assert used[2:4].tolist() == [[True, True, True, False]] * 2


def test_pruning_frees_weak_neurons_of_the_current_task():
    synapse = structured()
    synapse.grow(2, task=0)
    synapse.grow(3, task=1)
    importance = torch.tensor([0.0, 0.0, 1.0, 0.04, 2.0, 9.0])
    assert synapse.prune(importance, below=0.1) == 1  # the mean importance of the task is about 1
    assert synapse.owner.tolist() == [0, 0, 1, FREE, 1, FREE]
    assert synapse.prune(torch.zeros(6), below=0.5) == 0  # a silent layer is not pruned completely


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.5),
        lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.5),
    ],
)
def test_outputs_for_earlier_tasks_never_change_with_any_optimizer(optimizer):
    synapse = structured()
    optimizer = optimizer(synapse.parameters())
    x = torch.randn(5, 4)

    def learn(target):
        for _ in range(5):
            optimizer.zero_grad()
            (synapse(x) - target).square().sum().backward()
            optimizer.step()

    synapse.grow(3, task=0)
    start = synapse(x).detach()
    learn(1.0)
    before = synapse(x).detach()
    assert (before - start)[:, :3].abs().min() > 0
    synapse.grow(3, task=1)
    learn(-1.0)  # with the same optimizer, momenta included
    after = synapse(x).detach()
    assert torch.equal(after[:, :3], before[:, :3])
    assert (after - before)[:, 3:].abs().min() > 0
    synapse.grow(0, task=2)
    learn(3.0)
    assert torch.equal(synapse(x)[:, :3], before[:, :3])
    assert torch.equal(synapse(x)[:, 3:], after[:, 3:])


def test_only_connected_weights_of_the_current_task_get_gradients():
    synapse = StructuredSynapse(convolution(2, 3, 1))
    synapse.grow(1, task=0)
    synapse.grow(1, task=1)
    synapse.listens_to.copy_(torch.tensor([0, FREE]))
    synapse(torch.rand(1, 2, 4, 4)).sum().backward()
    grad = synapse.synapse.weight.grad.flatten(2).abs().sum(2) > 0
    assert grad.tolist() == [[False, False], [True, False], [False, False]]


def test_kept_neurons_are_saved():
    synapse, other = structured(), structured(seed=1)
    synapse.grow(3, task=0)
    synapse.grow(2, task=1)
    synapse.synapse.weight.data.zero_()
    other.load_state_dict(synapse.state_dict())
    x = torch.randn(2, 4)
    assert synapse(x)[:, :3].any()
    assert torch.equal(other(x), synapse(x))
