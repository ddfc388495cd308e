"""Buffer updates: sum, mean and set, merging of parts, bounds, declaration."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.buffers import BufferUpdate, apply_updates, merge_updates
from neuro.learning.objective import Objective
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear


def merged(*parts):
    total = {}
    for update, share in parts:
        merge_updates(total, {"b": update}, share)
    return total


def applied(updates, buffer):
    apply_updates({"b": buffer}, updates, lambda value, _: value)
    return buffer


def test_sums_add_up_and_means_are_weighted_by_samples():
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 6.0])
    sums = merged((BufferUpdate(one, reduce="sum"), 0.25), (BufferUpdate(two, reduce="sum"), 0.75))
    assert applied(sums, torch.ones(2)).tolist() == [7.0, 9.0]
    means = merged((BufferUpdate(one), 0.25), (BufferUpdate(two), 0.75))
    assert applied(means, torch.ones(2)).tolist() == [5.0, 6.0]


def test_a_buffer_may_be_set_and_is_bounded():
    update = BufferUpdate(torch.tensor([-3.0, 0.5, 3.0]), op="set", low=-1.0, high=2.0)
    assert applied({"b": update}, torch.full((3,), 9.0)).tolist() == [-1.0, 0.5, 2.0]
    update = BufferUpdate(torch.tensor([1.0, -1.0]), low=0.0)
    assert applied({"b": update}, torch.tensor([1.0, 0.5])).tolist() == [2.0, 0.0]


def test_a_buffer_keeps_its_type():
    buffer = torch.zeros(2, dtype=torch.float64)
    assert applied({"b": BufferUpdate(torch.ones(2))}, buffer).dtype == torch.float64


class Updates(Term):
    """Update the buffer `name` and declare `declared`."""

    def __init__(self, name, declared):
        super().__init__()
        self.name, self.declared = name, declared

    def updated_buffers(self, model):
        return self.declared

    def forward(self, model, batch, output):
        return TermOutput(output.values.sum() * 0, {self.name: BufferUpdate(torch.ones(()))})


def test_a_buffer_that_the_model_lacks_is_reported_before_training():
    model = linear()
    model.register_buffer("trace", torch.zeros(()))
    objective = Objective({"a": Updates("tracce", ("tracce",))})
    with pytest.raises(ConfigError, match=r"loss\.a: .* 'tracce', which Linear .*mean 'trace'\?"):
        objective.check(model, FakeData().spec("fast"))


def test_an_update_that_was_not_declared_is_refused():
    objective = Objective({"a": Updates("trace", ())})
    batch = Batch(torch.zeros(2, 1, 3), torch.tensor([0, 1]), 1.0)
    with pytest.raises(ConfigError, match=r"loss\.a: Updates updates trace, which its method"):
        objective(linear(), batch, ModelOutput(torch.zeros(2, 1, 2), (), {}))
