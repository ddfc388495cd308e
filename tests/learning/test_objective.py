"""Pooling over time, the weighted sum of terms, and what an objective refuses."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from neuro.data.base import Batch
from neuro.errors import ConfigError
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Increment, Objective, Term, TermOutput, TrainStep
from neuro.learning.rules.ltgate import GateVariance
from neuro.models.base import ModelOutput
from tests.fakes import FakeData, linear
from tests.networks import network

VALUES = torch.tensor([[[1.0, 5.0], [3.0, 1.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 2.0], [0.0, 9.0]]])
BATCH = Batch(torch.zeros(2, 3, 1), torch.tensor([0, 1]), 1.0)
OUTPUT = ModelOutput(VALUES, (), {})


class Fixed(Term):
    """A constant loss, and an increment of its own."""

    def __init__(self, loss, weight=1.0, graph=True, records=()):
        super().__init__(weight)
        self.loss, self.needs_graph, self.wanted = loss, graph, records

    def records(self, model):
        return self.wanted

    def forward(self, model, batch, output):
        change = Increment(torch.tensor(self.loss), "sum")
        return TermOutput(torch.tensor(self.loss), {f"buffer{self.loss}": change})


@pytest.mark.parametrize(
    "pooling, expected",
    [
        ("mean", [[2, 2], [0, 4]]),
        ("sum", [[6, 6], [0, 12]]),
        ("max", [[3, 5], [0, 9]]),
        ("last", [[2, 0], [0, 9]]),
    ],
)
def test_pooling(pooling, expected):
    objective = Objective({"ce": CrossEntropy()}, pooling=pooling)
    pooled = torch.tensor(expected, dtype=torch.float)
    assert torch.equal(objective.pool(VALUES), pooled)
    assert torch.equal(objective.decode(VALUES), pooled.argmax(1))
    loss = objective(None, BATCH, OUTPUT)
    assert loss.total == F.cross_entropy(pooled, BATCH.targets)
    assert loss.accuracy == (pooled.argmax(1) == BATCH.targets).float().mean()


def test_seq2seq_keeps_every_step():
    objective = Objective({"ce": CrossEntropy()}, mapping="seq2seq")
    targets = torch.tensor([[1, 0, 0], [1, 1, 0]])
    batch = BATCH._replace(targets=targets)
    loss = objective(None, batch, OUTPUT)
    assert torch.equal(objective.pool(VALUES), VALUES)
    assert loss.total == F.cross_entropy(VALUES.flatten(0, 1), targets.flatten())
    assert loss.accuracy == pytest.approx(5 / 6)
    assert objective.task_loss(VALUES, targets) == loss.total


def test_terms_are_weighted_and_kept_apart():
    objective = Objective({"a": Fixed(2.0, weight=0.5), "b": Fixed(3.0, weight=2.0)})
    loss = objective(None, BATCH, OUTPUT)
    assert loss.total == 7.0
    assert {name: float(value) for name, value in loss.terms.items()} == {"a": 2.0, "b": 3.0}
    assert set(loss.increments) == {"buffer2.0", "buffer3.0"}


def test_gradients_reach_the_weights_through_the_total_alone():
    model = linear()
    batch = next(FakeData().loader("fast", "train").batches())
    loss = TrainStep(model, Objective({"ce": CrossEntropy()}))(batch)
    assert loss.total.requires_grad
    assert not any(value.requires_grad for value in loss.terms.values())


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


def test_records_are_asked_for_once():
    objective = Objective(
        {"a": Fixed(1.0, records=("x", "y")), "b": Fixed(2.0, records=("y", "z"))}
    )
    assert objective.records(linear()) == ("x", "y", "z")


@pytest.mark.parametrize(
    "mapping, target, fits",
    [
        ("seq2static", "class", True),
        ("seq2static", "class_sequence", False),
        ("seq2static", "value", False),
        ("seq2seq", "class_sequence", True),
        ("seq2seq", "token", True),
        ("seq2seq", "class", False),
    ],
)
def test_targets_must_fit_the_mapping(mapping, target, fits):
    spec = dataclasses.replace(FakeData().spec("fast"), target=target)
    objective = Objective({"ce": CrossEntropy()}, mapping=mapping)
    if fits:
        objective.check(linear(), spec)
    else:
        with pytest.raises(ConfigError, match=rf"objective\.mapping={mapping} .* has '{target}'"):
            objective.check(linear(), spec)


def test_everything_that_does_not_fit_is_told_at_once():
    spec = dataclasses.replace(FakeData().spec("fast"), target="value")
    objective = Objective({"a": Fixed(1.0, records=("feature",)), "b": GateVariance()})
    with pytest.raises(ConfigError) as caught:
        objective.check(linear(), spec)
    mapping, records, gates = caught.value.problems
    assert mapping.startswith("objective.mapping")
    assert records == (
        "loss.a: Fixed needs a record of 'feature', which Linear does not make. "
        "Did you mean 'features'?"
    )
    assert gates.startswith("loss.b: LT-Gate's rule needs dual-timescale layers; Linear has none")
    objective = Objective({"b": GateVariance()})
    objective.check(network("ltgate", readout="linear"), FakeData().spec("fast"))


def test_statistics_that_no_term_keeps_are_told():
    objective = Objective({"a": Fixed(1.0)})
    with pytest.raises(ConfigError) as caught:
        objective.check(network("ltgate"), FakeData().spec("fast"))
    moments, gates = caught.value.problems
    assert "no term keeps the discriminant moments of LTGate" in moments
    assert "choose readout=linear" in moments
    assert "add the term gate_variance" in gates
    with pytest.raises(ConfigError, match="lateral neurons of HLOP.*hlop_subspace"):
        objective.check(network("hlop"), FakeData().spec("fast"))
    objective.check(network("ltgate", readout="linear", gate="fixed"), FakeData().spec("fast"))


def test_consolidation_reaches_every_term_with_the_pooling():
    seen = []

    class Keeps(Fixed):
        def consolidate(self, model, batches, pool):
            seen.append(float(pool(VALUES)[1, 1]))

    Objective({"a": Keeps(1.0), "b": Keeps(1.0)}, pooling="sum").consolidate(None, [])
    assert seen == [12.0, 12.0]
