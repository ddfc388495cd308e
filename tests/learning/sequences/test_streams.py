"""Streams: the initial states of the next batch."""

from __future__ import annotations

import pytest
import torch

from neuro.data.base import Batch
from neuro.learning.evaluation import evaluate, predict
from neuro.learning.losses.cross_entropy import CrossEntropy
from neuro.learning.objective import Objective
from neuro.learning.sequences.streams import Streams
from neuro.models.state import concat, map_state, named_tensors, select, tensors_of, with_tensors
from tests.fakes import FakeData
from tests.networks import network


def ended(model, count, seed=0):
    """The final state of a batch of random frames."""
    torch.manual_seed(seed)
    return model(torch.rand(count, 5, 1, 6, 6), dt_ms=1.0).state


def equal(one, other):
    pairs = zip(tensors_of(one), tensors_of(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_states_are_saved_and_loaded_by_field_name():
    model = network("ltgate")
    state = ended(model, 3)
    named = named_tensors(state)
    assert list(named)[:2] == ["0.v_fast", "0.v_slow"]
    again = with_tensors(model.initial_state(1), named)
    assert type(again) is type(state)
    assert type(again[0]) is type(state[0])
    assert equal(again, state)


def test_states_of_earlier_versions_are_read_by_the_former_names_of_their_fields():
    model = network("ltgate")
    state = ended(model, 3)
    former = {
        name.replace("v_fast", "u_fast").replace("v_slow", "u_slow"): tensor
        for name, tensor in named_tensors(state).items()
    }
    assert {"0.u_fast", "0.u_slow"} <= former.keys()
    assert equal(with_tensors(model.initial_state(1), former), state)


def batch(count, starts=None):
    """A batch of `count` sequences, of which only their number and `starts` matter here."""
    starts = None if starts is None else torch.tensor(starts)
    return Batch(torch.zeros(count, 1), torch.zeros(count), 1.0, starts=starts)


def test_each_stream_continues_and_batches_of_other_sizes_fit():
    model = network("lif")
    streams = Streams(model, "stream")
    assert streams.start(batch(4)) is None
    state = ended(model, 4)
    streams.keep(state)
    assert equal(streams.start(batch(4)), state)
    assert equal(streams.start(batch(3)), select(state, slice(3)))
    larger = streams.start(batch(6))
    assert equal(select(larger, slice(4)), state)
    assert equal(select(larger, slice(4, 6)), model.initial_state(2))
    streams.reset()
    assert streams.start(batch(4)) is None


def test_streams_beyond_the_batch_are_not_changed():
    model = network("lif")
    streams = Streams(model, "stream")
    state, shorter = ended(model, 4), ended(model, 3, seed=1)
    streams.keep(state)
    streams.keep(shorter)
    assert equal(streams.start(batch(4)), concat(shorter, select(state, slice(3, 4))))


@pytest.mark.parametrize("take", ["stream", "first"])
def test_a_sequence_that_begins_a_document_starts_from_the_initial_state(take):
    model = network("lif")
    documents, others = (Streams(model, take, documents=on) for on in (True, False))
    state = ended(model, 3)
    for streams in (documents, others):
        assert streams.start(batch(3, [False, True, True])) is None
        streams.keep(state)
    marked = batch(3, [True, False, True])
    continued = others.start(marked)
    assert equal(continued, others.start(batch(3)))
    found = documents.start(marked)
    assert equal(select(found, slice(1, 2)), select(continued, slice(1, 2)))
    for row in (0, 2):
        assert equal(select(found, slice(row, row + 1)), model.initial_state(1))
    assert equal(documents.start(batch(3)), continued)  # the streams are not changed


@pytest.mark.parametrize(("take", "chosen"), [("first", 0), ("last", 3), ("random", None)])
def test_one_samples_state_starts_all(take, chosen):
    model = network("lif")
    streams = Streams(model, take)
    state = ended(model, 4)
    found = set()
    for _ in range(30):
        streams.keep(state)
        start = streams.start(batch(2))
        assert all(torch.equal(x[0], x[1]) for x in tensors_of(start))
        first = map_state(lambda x: x[:1], start)
        samples = [map_state(lambda x, i=i: x[i : i + 1], state) for i in range(4)]
        (one,) = [i for i, sample in enumerate(samples) if equal(first, sample)]
        found.add(one)
    assert found == ({0, 1, 2, 3} if chosen is None else {chosen})


def test_streams_with_a_non_finite_state_are_reset():
    model = network("lif")
    streams = Streams(model, "stream")
    streams.reset_not_finite()
    assert streams.start(batch(2)) is None
    state = ended(model, 3)
    streams.keep(state)
    streams.reset_not_finite()
    assert equal(streams.start(batch(3)), state)
    broken = map_state(torch.clone, state)
    list(tensors_of(broken))[-1][1] = float("inf")
    streams.keep(broken)
    streams.reset_not_finite()
    found = streams.start(batch(3))
    assert equal(select(found, torch.tensor([0, 2])), select(state, torch.tensor([0, 2])))
    assert equal(select(found, slice(1, 2)), model.initial_state(1))


@pytest.mark.parametrize("take", ["stream", "first"])
def test_states_of_several_processes_are_restored_or_redistributed(take):
    model = network("lif")
    parts = [Streams(model, take) for _ in range(2)]
    for rank, streams in enumerate(parts):
        streams.keep(ended(model, 2, seed=rank))
    saved = [streams.state_dict() for streams in parts]
    for rank, streams in enumerate(parts):
        again = Streams(model, take)
        again.load_state_dict(saved, rank, 2)
        assert equal(again.start(batch(2)), streams.start(batch(2)))
    alone = Streams(model, take)
    alone.load_state_dict(saved)
    first, second = (streams.start(batch(2)) for streams in parts)
    whole = alone.start(batch(4))
    assert equal(select(whole, slice(2)), first)
    assert equal(select(whole, slice(2, 4)), second if take == "stream" else first)
    alone.load_state_dict([{}])
    assert alone.start(batch(4)) is None


def test_a_validation_carries_states_from_batch_to_batch():
    model, data = network("lif"), FakeData(batch_size=4)
    torch.nn.init.normal_(model.readout.weight)
    objective = Objective({"ce": CrossEntropy()})
    loader = data.loader("fast", "test")
    device = torch.device("cpu")
    rest = evaluate(model, objective, loader, device)
    carried = evaluate(model, objective, loader, device, Streams(model, "stream"))
    assert rest.values()["loss"] != carried.values()["loss"]
    images, labels = loader.inputs, loader.targets
    sequence = images.expand(-1, loader.frames, *images.shape[2:])
    first = model(sequence[:4], dt_ms=1.0)
    second = model(sequence[4:], first.state, dt_ms=1.0)
    values = objective.pool(torch.cat([first.values, second.values]))
    expected = torch.nn.functional.cross_entropy(values, labels)
    assert carried.values()["loss"] == pytest.approx(expected.item())
    found = predict(model, objective, loader, device, Streams(model, "stream"))
    torch.testing.assert_close(found.outputs, values.detach())
