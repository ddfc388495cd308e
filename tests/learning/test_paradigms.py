"""Paradigms: source of the targets, and all combinations with mapping, targets and terms."""

from __future__ import annotations

import dataclasses
import functools
from typing import get_args

import pytest
import torch

from neuro.config.build import build
from neuro.data.base import InputSpec, TargetSpec, TaskSpec
from neuro.data.store import NO_LABEL
from neuro.data.uses import USES, OutputMapping, TargetKind
from neuro.errors import ConfigError
from neuro.learning.evaluation import evaluate
from neuro.learning.losses.cross_entropy import AutoregressiveCrossEntropy, CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.paradigms import _OwnTargets, as_learned
from neuro.learning.sequences.truncation import chunks
from neuro.learning.step import TrainStep
from neuro.learning.terms import Term
from tests.fakes import FakeData, Linear, linear
from tests.test_conf import compose

KINDS = get_args(TargetKind)
PARADIGMS = ("supervised", "self_supervised", "distillation")
MAPPINGS = get_args(OutputMapping)


@functools.cache
def terms() -> dict[str, Term]:
    """The terms of the table with their options in conf/loss."""
    names = sorted({name for use in USES for name in use.losses})
    nodes = compose(f"loss=[{','.join(names)}]")["loss"]
    return {name: build(nodes[name], Term, f"loss.{name}") for name in names}


def spec(kind: str) -> TaskSpec:
    return dataclasses.replace(FakeData().spec("fast"), targets=TargetSpec(kind, (4,)))


@pytest.mark.parametrize("paradigm", PARADIGMS)
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_combinations_fit_as_in_the_table(paradigm, mapping, kind):
    """Every term with each paradigm; invalid combinations are refused with an alternative."""
    uses = [use for use in USES if use.target == kind]
    fitting = [use for use in uses if (use.paradigm, use.mapping) == (paradigm, mapping)]
    for name, one in terms().items():
        used = {name: one}
        if paradigm == "distillation":
            used["distillation"] = terms()["distillation"]
        objective = Objective(used, mapping, paradigm=paradigm, target=kind)
        if any(name in use.losses for use in fitting):
            objective.check(linear(), spec(kind))
            continue
        with pytest.raises(ConfigError) as caught:
            objective.check(linear(), spec(kind))
        first = caught.value.problems[0]
        if fitting and name == "distillation":
            assert first.startswith(f"objective.paradigm: got {paradigm}, but loss.distillation")
        elif fitting:
            assert first.startswith(f"loss.{name}: {type(one).__name__} needs targets of kind")
            assert f"'fast' has '{kind}', which fit {', '.join(uses[0].losses)}" in first
        else:
            assert first.startswith(f"objective.mapping={mapping} with objective.paradigm=")
            for use in uses:
                assert f"objective.paradigm={use.paradigm} objective.mapping={use.mapping}" in first


def test_distillation_needs_its_term():
    objective = Objective({"cross_entropy": CrossEntropy()}, paradigm="distillation")
    with pytest.raises(ConfigError, match=r"as in loss=\[cross_entropy,distillation\]"):
        objective.check(linear(), FakeData().spec("fast"))


# -- the inputs as targets --------------------------------------------------------------------


class Symbols(FakeData):
    """Sequences of one-hot symbols, 4 of them, with labels that have no effect."""

    SEQUENCES = torch.tensor([[0, 1, 2, 3, 0, 1], [3, 3, 2, 2, 1, 1]])

    def __init__(self):
        super().__init__()
        one_hot = torch.nn.functional.one_hot(self.SEQUENCES, 4).float()
        self.splits = {key: (one_hot, torch.zeros(2, dtype=torch.long)) for key in self.splits}

    def spec(self, task):
        return dataclasses.replace(super().spec(task), inputs=InputSpec((4,), vocabulary=4))

    def loader(self, *args, **options):
        loader = super().loader(*args, **options)
        loader.frames = None
        return loader


def test_numbers_are_reconstructed_step_by_step():
    data = as_learned(FakeData(), "self_supervised")
    found = data.spec("fast")
    assert (found.targets.kind, found.outputs, found.classes) == ("value_sequence", 36, ())
    plain = FakeData().loader("fast", "val")
    for batch, source in zip(data.loader("fast", "val").batches(), plain.batches(), strict=True):
        assert torch.equal(batch.targets, source.sequence().flatten(2))
        assert torch.equal(batch.inputs, source.inputs)
    assert (data.tasks, data.batch_size) == (("fast", "slow"), 4)


def test_symbols_are_predicted_one_step_ahead():
    data = as_learned(Symbols(), "self_supervised")
    found = data.spec("fast")
    assert (found.targets.kind, found.outputs, found.classes) == ("token", 4, (0, 1, 2, 3))
    (batch,) = data.loader("fast", "train").batches()
    expected = [[1, 2, 3, 0, 1, NO_LABEL], [3, 2, 2, 1, 1, NO_LABEL]]
    assert batch.targets.tolist() == expected


def test_the_end_of_a_short_sequence_has_no_next_symbol():
    inner = Symbols().loader("fast", "train")
    plain = inner.batches
    inner.batches = lambda epoch=0, start=0: (
        batch._replace(lengths=torch.tensor([4, 1])) for batch in plain(epoch, start)
    )
    (batch,) = _OwnTargets(inner, InputSpec((4,), vocabulary=4)).batches()
    assert batch.targets.tolist() == [[1, 2, 3, *[NO_LABEL] * 3], [NO_LABEL] * 6]


def test_order_shares_and_resumed_epochs_are_the_sources():
    options = {"shuffle": True, "seed": 3, "rank": 1, "world_size": 2, "batch_size": 6}
    data = as_learned(FakeData(), "self_supervised")
    own, source = (d.loader("fast", "train", **options) for d in (data, FakeData()))
    assert (len(own), own.samples) == (len(source), source.samples)
    for a, b in zip(own.batches(2, 1), source.batches(2, 1), strict=True):
        assert torch.equal(a.inputs, b.inputs)


@pytest.mark.parametrize("paradigm", ["supervised", "distillation"])
def test_other_paradigms_keep_the_labels(paradigm):
    data = FakeData()
    assert as_learned(data, paradigm) is data


def next_symbols(model, data):
    """Cross-entropy and accuracy of each symbol from those before it, one after the other."""
    (batch,) = data.loader("fast", "train").batches()
    scores = model(batch.inputs, dt_ms=1.0).values
    costs, hits = [], []
    for b, row in enumerate(Symbols.SEQUENCES.tolist()):
        for t, symbol in enumerate(row[1:]):
            costs.append(-scores[b, t].log_softmax(0)[symbol].item())
            hits.append(scores[b, t].argmax().item() == symbol)
    return sum(costs) / len(costs), sum(hits) / len(hits)


def test_the_next_symbol_is_learned_and_scored():
    data = as_learned(Symbols(), "self_supervised")
    torch.manual_seed(0)
    model = Linear(data.spec("fast"))
    objective = Objective(
        {"next": AutoregressiveCrossEntropy()}, "seq2seq", paradigm="self_supervised",
        target="token",
    )  # fmt: skip
    objective.check(model, data.spec("fast"))
    cost, accuracy = next_symbols(model, data)
    (batch,) = data.loader("fast", "train").batches()
    loss = TrainStep(model, objective)(batch)
    assert loss.total.item() == pytest.approx(cost)
    right, count = loss.metrics["accuracy"].tolist()
    assert right / count == pytest.approx(accuracy)
    measured = evaluate(model, objective, data.loader("fast", "test"), torch.device("cpu"))
    assert measured.values() == pytest.approx({"loss": cost, "accuracy": accuracy})
    parts = [chunk.batch.targets for chunk in chunks(batch, 4, 4, per_step=True)]
    assert torch.equal(torch.cat(parts, 1), batch.targets)  # no step is skipped between chunks
