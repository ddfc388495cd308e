"""Chunks of sequences: steps, initial states, losses and gradients."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from benchmarks.memory import SavedBytes
from neuro.config.trainer import Stateful, Truncation
from neuro.data.base import Batch
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.pooling import Pooling
from neuro.learning.rules.ltgate import GateVariance, Hebbian
from neuro.learning.rules.readout import DeltaRule
from neuro.learning.sequences.truncation import check_truncation, chunks
from neuro.learning.step import TrainStep
from neuro.learning.terms import TermOutput
from neuro.models.base import CoreModel, ModelOutput
from neuro.training.sequences import SequenceRunner
from tests.fakes import SIDE, FakeData
from tests.networks import network

B, T, F_IN, K = 3, 10, 4, 5
CUTS = [(10, 10), (4, 4), (4, 3), (4, 1), (3, 2), (1, 1), (30, 30)]


class RNNState(NamedTuple):
    h: torch.Tensor


class RNN(CoreModel):
    """h[t] = tanh(W h[t-1] + U x[t]), double precision; the readout gets h."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.RNN(F_IN, 6, batch_first=True).double()
        self.last = nn.Linear(6, K).double()

    def initial_state(self, batch_size):
        return RNNState(torch.zeros(batch_size, 6, dtype=torch.double))

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        state = state or self.initial_state(len(inputs))
        out, h = self.cell(inputs, state.h.unsqueeze(0))
        return ModelOutput(self.last(out), RNNState(h.squeeze(0)), {})


def batch(per_step=False):
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(K, (B, T) if per_step else (B,), generator=generator)
    return Batch(torch.randn(B, T, F_IN, generator=generator).double(), targets, 1.0)


def learn(model, objective, data, length=None, stride=None):
    """The loss of one batch, its gradients in the model."""
    tbptt = None if length is None else Truncation(length=length, stride=stride)
    fabric = Fabric(accelerator="cpu", devices=1)
    runner = SequenceRunner(fabric, model, objective, tbptt, Stateful())
    model.zero_grad()
    step = fabric.setup_module(TrainStep(model, objective))
    loss = runner.learn(step, data, objective.counts(data), last=True)
    return loss, [p.grad for p in model.parameters()]


def by_hand(model, objective, data, length, stride):
    """The definition, frame by frame: the state is cut where a chunk's context begins."""
    per_step = objective.mapping == "seq2seq"
    frames = data.inputs.unbind(1)
    states, s = [model.initial_state(B)], model.initial_state(B)
    with torch.no_grad():
        for frame in frames:
            s = model(frame[:, None], s, dt_ms=1.0).state
            states.append(s)
    model.zero_grad()
    total, start, seen = 0.0, 0, 0
    while seen < T:
        end = min(start + length, T)
        s, values = states[start], []
        for t in range(start, end):
            out = model(frames[t][:, None], s, dt_ms=1.0)
            s = out.state
            values.append(out.values)
        new = torch.cat(values[seen - start :], 1)
        if per_step:
            loss = F.cross_entropy(new.flatten(0, 1), data.targets[:, seen:end].flatten())
        else:
            scores = (
                new.mean(1) if objective.pooling.kind == "mean" else new.sum(1) * T / (end - seen)
            )
            loss = F.cross_entropy(scores, data.targets)
        loss = loss * (end - seen) / T
        loss.backward()
        total += float(loss.detach())
        start, seen = start + stride, end
    return total, [p.grad for p in model.parameters()]


@pytest.mark.parametrize(("length", "stride"), CUTS)
def test_every_step_counts_once_and_overlaps_are_context(length, stride):
    data = Batch(torch.arange(T).expand(B, T), torch.zeros(B), 1.0)
    start, seen = 0, 0
    for i, chunk in enumerate(chunks(data, length, stride, per_step=False)):
        new = chunk.batch.inputs[0].tolist()
        assert new == list(range(seen, min(i * stride + length, T)))
        context = [] if chunk.context is None else chunk.context.inputs[0].tolist()
        assert context == list(range(start, seen))
        assert chunk.share == len(new) / T
        start, seen = start + stride, new[-1] + 1
        if chunk.ahead is not None:  # otherwise the next chunk begins at the end of this one
            assert chunk.ahead.inputs[0].tolist() == list(range(i * stride, start))
        else:
            assert start == seen or seen == T
    assert seen == T


def test_held_frames_stay_held_and_targets_per_step_are_cut():
    held = Batch(torch.rand(B, 1, 2), torch.zeros(B), 1.0, frames=T)
    parts = [chunk.batch for chunk in chunks(held, 4, 4, per_step=False)]
    assert [part.frames for part in parts] == [4, 4, 2]
    assert all(part.inputs is held.inputs for part in parts)
    parts = [chunk.batch for chunk in chunks(batch(per_step=True), 4, 4, per_step=True)]
    assert torch.equal(torch.cat([part.targets for part in parts], 1), batch(True).targets)


@pytest.mark.parametrize(("length", "stride"), CUTS)
@pytest.mark.parametrize(
    ("mapping", "pooling"), [("seq2static", "mean"), ("seq2static", "sum"), ("seq2seq", "mean")]
)
def test_loss_and_gradient_are_those_of_the_definition(length, stride, mapping, pooling):
    model = RNN()
    objective = Objective({"ce": CrossEntropy()}, mapping, pooling)
    objective.terms["ce"].forward = lambda _, data, out: _cross_entropy(
        data, out
    )  # in double precision
    data = batch(per_step=mapping == "seq2seq")
    loss, gradients = learn(model, objective, data, length, stride)
    expected, reference = by_hand(model, objective, data, length, stride)
    torch.testing.assert_close(float(loss.total), expected)
    torch.testing.assert_close(gradients, reference)
    whole, _ = learn(model, objective, data)
    torch.testing.assert_close(loss.metrics["accuracy"], whole.metrics["accuracy"])
    torch.testing.assert_close(loss.pooled, whole.pooled)


def _cross_entropy(data, out):
    return TermOutput(F.cross_entropy(out.values.flatten(0, -2), data.targets.flatten()))


def test_one_chunk_is_bit_identical_to_the_whole_sequence():
    model, objective = network("lif"), Objective({"ce": CrossEntropy()})
    data = frames(6)
    loss, gradients = learn(model, objective, data)
    again, same = learn(model, objective, data, 6)
    assert torch.equal(loss.total, again.total)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def frames(steps):
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(B, 1, 1, SIDE, SIDE, generator=generator)
    return Batch(images, torch.tensor([0, 1, 0]), 1.0, steps)


@pytest.mark.parametrize("kind", ["ltgate", "lif", "hlop", "dsdsnn"])
def test_spiking_networks_continue_from_the_previous_chunk(kind):
    options = {"readout": "linear"} | ({"gate": "learned"} if kind == "ltgate" else {})
    model, objective = network(kind, **options), Objective({"ce": CrossEntropy()})
    whole, full = learn(model, objective, frames(12))
    cut, gradients = learn(model, objective, frames(12), 5, 3)
    torch.testing.assert_close(cut.pooled, whole.pooled)
    assert all((g is None) == (f is None) for g, f in zip(gradients, full, strict=True))
    assert any(not torch.equal(g, f) for g, f in zip(gradients, full, strict=True) if g is not None)


def test_local_rules_learn_from_every_chunk():
    model = network("ltgate", readout="linear")
    terms = {"h": Hebbian(), "v": GateVariance(), "d": DeltaRule()}
    whole, full = learn(model, Objective(terms), frames(12))
    cut, gradients = learn(model, Objective(terms), frames(12), 4, 2)
    assert cut.updates.keys() == whole.updates.keys()
    torch.testing.assert_close(cut.pooled, whole.pooled)
    for one, other in zip(
        gradients, full, strict=True
    ):  # the same direction in spite of truncated traces
        if one is not None and one.norm() > 0:
            assert F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.5


POOLINGS = ["max", "rms", "last", {"kind": "mean_last_n", "n": 2}, "ewa"]


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_other_poolings_of_chunks(pooling):
    """One chunk equals the sequence; the scores of several are combined, exactly except for ewa."""
    model, objective = RNN(), Objective({"ce": CrossEntropy()}, pooling=pooling)
    data = batch()
    whole, _ = learn(model, objective, data)
    one, _ = learn(model, objective, data, T)
    cut, gradients = learn(model, objective, data, 4)
    assert torch.equal(one.pooled, whole.pooled)
    torch.testing.assert_close(
        cut.pooled, whole.pooled, atol=0.2 if pooling == "ewa" else 1e-6, rtol=0
    )
    assert any(g is not None and g.norm() > 0 for g in gradients)


@pytest.mark.parametrize("pooling", ["last", {"kind": "mean_last_n", "n": 2}], ids=str)
def test_pooling_of_the_last_steps_has_a_loss_in_the_last_chunk_only(pooling):
    model, objective = RNN(), Objective({"ce": CrossEntropy()}, pooling=pooling)
    data = batch()
    whole, _ = learn(model, objective, data)
    cut, _ = learn(model, objective, data, 4)
    torch.testing.assert_close(cut.total, whole.total.detach())
    torch.testing.assert_close(cut.terms["ce"].mean, whole.terms["ce"].mean)


def test_the_last_steps_must_be_in_the_last_chunk():
    """10 frames in chunks of 4 that begin every 3 frames: the last one, 6 to 9, has 3 new ones."""
    spec = replace(FakeData().spec("fast"), timings=((10, 1.0),))
    cut = Truncation(length=4, stride=3)

    def told(n, mapping="seq2static"):
        pooling = Pooling(kind="mean_last_n", n=n)
        return list(check_truncation(Objective({}, mapping, pooling), cut, [spec]))

    assert told(3) == told(4, "seq2seq") == []
    (problem,) = told(4)
    assert problem.startswith("objective.pooling.n: got 4, but with trainer.tbptt the last chunk")
    assert "task 'fast' (10 frames) has 3 new frames" in problem


def test_outputs_of_any_shape_cannot_be_cut():
    (problem,) = check_truncation(Objective({}, "none"), Truncation(length=4), [])
    assert problem.startswith("trainer.tbptt: cuts sequences of outputs")


def test_memory_falls_with_the_chunk_length():
    model, objective = network("lif", channels=(8, 8)), Objective({"ce": CrossEntropy()})
    peaks = []
    for length in (None, 160, 80, 40):
        with SavedBytes() as saved:
            learn(model, objective, frames(320), length)
        peaks.append(saved.peak)
    assert all(later < 0.65 * before for before, later in itertools.pairwise(peaks))
