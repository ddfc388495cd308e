"""Pooling over time, the weighted sum of terms, and invalid objectives."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch, TargetSpec
from neuro.errors import ConfigError
from neuro.learning.buffers import BufferUpdate
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.pooling import Pooling
from neuro.learning.rules.ltgate import GateVariance
from neuro.learning.step import TrainStep
from neuro.learning.terms import Term, TermOutput
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear
from tests.networks import network

VALUES = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 2.0], [0.0, 9.0]]])
BATCH = Batch(torch.zeros(2, 3, 1), torch.tensor([0, 1]), 1.0)
OUTPUT = ModelOutput(VALUES, (), {})


class Fixed(Term):
    """A constant loss, and an update of one buffer."""

    def __init__(self, loss, weight=1.0, graph=True, records=(), buffer=False):
        super().__init__(weight)
        self.loss, self.needs_graph, self.wanted, self.buffer = loss, graph, records, buffer

    def records(self, model):
        return self.wanted

    def forward(self, model, batch, output):
        change = BufferUpdate(torch.tensor(self.loss), reduce="sum")
        names = self.updated_buffers(model)
        return TermOutput(torch.tensor(self.loss), dict.fromkeys(names, change))

    def updated_buffers(self, model):
        return (f"buffer{self.loss}",) if self.buffer else ()


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_losses_and_decisions_are_those_of_pooled_outputs(pooling):
    objective = Objective({"ce": CrossEntropy()}, pooling=pooling, scale=2.0)
    pooled = 2 * Pooling(kind=pooling)(VALUES)
    assert torch.equal(objective.pool(VALUES), pooled)
    assert torch.equal(objective.decode(VALUES), pooled.argmax(1))
    loss = objective(None, BATCH, OUTPUT)
    assert loss.total == F.cross_entropy(pooled, BATCH.targets)
    assert loss.metrics["accuracy"].tolist() == [(pooled.argmax(1) == BATCH.targets).sum(), 2]


def test_terms_see_pooled_outputs_and_those_of_every_step():
    seen = {}

    class OutputRecorder(Fixed):
        def forward(self, model, batch, output):
            seen.update(pooled=output.values, steps=output.records["values"])
            return super().forward(model, batch, output)

    objective = Objective({"a": OutputRecorder(1.0)}, pooling="sum", scale=3.0)
    objective(None, BATCH, OUTPUT, share=0.5)
    assert torch.equal(seen["pooled"], 3 * VALUES.sum(1) / 0.5)  # of half of the sequences
    assert torch.equal(seen["steps"], VALUES)


def test_seq2seq_keeps_every_step():
    objective = Objective({"ce": CrossEntropy()}, mapping="seq2seq")
    targets = torch.tensor([[1, 0, 0], [1, 1, 0]])
    batch = BATCH._replace(targets=targets)
    loss = objective(None, batch, OUTPUT)
    assert torch.equal(objective.pool(VALUES), VALUES)
    assert loss.total == F.cross_entropy(VALUES.flatten(0, 1), targets.flatten())
    assert loss.metrics["accuracy"].tolist() == [5, 6]
    assert objective.task_loss.mean(VALUES, targets) == loss.total


def test_terms_are_weighted_and_kept_apart():
    objective = Objective(
        {"a": Fixed(2.0, weight=0.5, buffer=True), "b": Fixed(3.0, weight=2.0, buffer=True)}
    )
    loss = objective(None, BATCH, OUTPUT)
    assert loss.total == 7.0
    assert {name: float(term.mean) for name, term in loss.terms.items()} == {"a": 2.0, "b": 3.0}
    assert {name: term.weight for name, term in loss.terms.items()} == {"a": 0.5, "b": 2.0}
    assert set(loss.updates) == {"buffer2.0", "buffer3.0"}


def test_only_the_total_has_gradients():
    model = linear()
    batch = next(FakeData().loader("fast", "train").batches())
    loss = TrainStep(model, Objective({"ce": CrossEntropy()}))(batch)
    assert loss.total.requires_grad
    assert not any(term.mean.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize("graphs", [(True, True), (True, False), (False, False)])
def test_a_graph_is_built_only_if_a_term_needs_it(graphs):
    terms = {str(i): Fixed(1.0, graph=graph) for i, graph in enumerate(graphs)}
    objective = Objective(terms)
    assert objective.needs_graph is any(graphs)
    seen = []
    model = linear()
    model.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    step = TrainStep(model, objective)
    batch = next(FakeData().loader("fast", "train").batches())
    step(batch)
    assert seen == [any(graphs)]
    with torch.no_grad():
        step(batch)
    assert seen[1] is False


def test_records_are_requested_once():
    objective = Objective(
        {"a": Fixed(1.0, records=("x", "y")), "b": Fixed(2.0, records=("y", "z"))}
    )
    assert objective.records(linear()) == ("x", "y", "z")


def test_tasks_and_paradigms_must_fit():
    spec = dataclasses.replace(
        FakeData().spec("fast"), targets=TargetSpec("class_sequence", classes=4)
    )
    Objective({"ce": CrossEntropy()}, mapping="seq2seq").check(linear(), spec)
    with pytest.raises(ConfigError, match="objective.mapping=seq2static .* targets of kind"):
        Objective({"ce": CrossEntropy()}).check(linear(), spec)


def test_all_incompatibilities_are_reported_at_once():
    spec = FakeData().spec("fast")
    objective = Objective({"a": Fixed(1.0, records=("feature",)), "b": GateVariance()})
    with pytest.raises(ConfigError) as caught:
        objective.check(linear(), spec)
    records, gates = caught.value.problems
    assert records == (
        "loss.a: Fixed needs a record of 'feature', which Linear does not make. "
        "Did you mean 'features'?"
    )
    assert gates.startswith("loss.b: LT-Gate's rule needs dual-timescale layers; Linear has none")
    objective = Objective({"b": GateVariance()})
    objective.check(network("ltgate", readout="linear"), FakeData().spec("fast"))


def test_statistics_without_a_term_that_updates_them_are_reported():
    objective = Objective({"a": Fixed(1.0)})
    with pytest.raises(ConfigError) as caught:
        objective.check(network("ltgate"), FakeData().spec("fast"))
    moments, gates = caught.value.problems
    assert "no term updates readout.count and 2 more of SpikingCNN" in moments
    assert "choose readout=linear" in moments
    assert "add the term gate_variance" in gates
    with pytest.raises(
        ConfigError,
        match=r"layers\.conv1\.synapse\.lateral and 2 more of SpikingCNN; add the term hlop_sub",
    ):
        objective.check(network("hlop"), FakeData().spec("fast"))
    objective.check(network("ltgate", readout="linear", gate="fixed"), FakeData().spec("fast"))


def test_consolidation_reaches_every_term_with_the_pooling():
    seen = []

    class Keeps(Fixed):
        def consolidate(self, model, batches, pool):
            seen.append(float(pool(VALUES)[1, 1]))

    Objective({"a": Keeps(1.0), "b": Keeps(1.0)}, pooling="sum").consolidate(None, list)
    assert seen == [12.0, 12.0]
