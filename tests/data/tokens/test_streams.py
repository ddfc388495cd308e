"""Streams: every token once per pass, an order by (seed, epoch), exact positions, processes."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from neuro.data.prefetch import Prefetch
from neuro.data.tokens.streams import allotted
from neuro.data.tokens.text import Text
from neuro.errors import ConfigError
from tests.data.tokens.helpers import END, split_at_ends, streams_of, text, texts_of, write_texts


@pytest.fixture
def source(tmp_path: Path) -> Text:
    path = write_texts(tmp_path / "corpus")
    return text(path, streams=3, span=16)


def test_targets_are_the_next_inputs_also_between_batches_and_epochs(source: Text) -> None:
    inputs, targets = streams_of(source.loader("all", "train", shuffle=True, seed=1), epochs=3)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert (inputs[:, 0] == END).all()
    assert (targets >= 0).all()


def test_each_pass_of_a_stream_has_all_its_documents_once_in_another_order(source: Text) -> None:
    loader = source.loader("all", "train", shuffle=True, seed=1)
    _, targets = streams_of(loader, epochs=4)
    seen: list[bytes] = []
    for stream in targets:
        documents = split_at_ends(stream)
        own = len(set(documents))
        first, second = documents[:own], documents[own : 2 * own]
        assert sorted(first) == sorted(second) == sorted(set(documents))
        assert first != second
        seen += first
    assert sorted(seen) == sorted(text.encode() for text in texts_of(source, "all", "train"))


def test_streams_are_about_equally_long(source: Text) -> None:
    loader = source.loader("all", "train", shuffle=True)
    _, targets = streams_of(loader, epochs=1)
    tokens = source.documents("all", "train").tokens
    assert len(loader) == -(-tokens // (3 * 16))
    lengths = []
    for stream in streams_of(loader, epochs=3)[1]:
        documents = split_at_ends(stream)
        lengths.append(sum(len(text) + 1 for text in set(documents)))
    assert sum(lengths) == tokens
    assert max(lengths) - min(lengths) < 30  # less than the longest document
    assert targets.shape == (3, len(loader) * 16)


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("start", [0, 1, 7])
def test_a_position_does_not_depend_on_earlier_reads(source: Text, epoch: int, start: int) -> None:
    loader = source.loader("all", "train", shuffle=True, seed=5)
    whole = list(source.loader("all", "train", shuffle=True, seed=5).batches(epoch))
    rest = list(loader.batches(epoch, start))
    assert len(rest) == len(whole) - start
    for one, other in zip(rest, whole[start:], strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)


def test_the_order_depends_on_the_seed(source: Text) -> None:
    one, same, other = (
        streams_of(source.loader("all", "train", shuffle=True, seed=seed))[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_starts_mark_rows_that_begin_with_the_end_of_the_document_before(source: Text) -> None:
    for epoch in range(3):
        for batch in source.loader("all", "train", shuffle=True).batches(epoch):
            assert batch.starts is not None
            assert torch.equal(batch.starts, batch.inputs[:, 0] == END)


def test_processes_together_read_the_streams_of_one(source: Text) -> None:
    for options in ({"shuffle": True, "seed": 3}, {}):
        one = list(source.loader("all", "train", **options).batches(1))
        parts = [
            list(source.loader("all", "train", rank=rank, world_size=2, **options).batches(1))
            for rank in (0, 1)
        ]
        for batch, *shares in zip(one, *parts, strict=True):
            assert torch.equal(batch.inputs, torch.cat([share.inputs for share in shares]))
            assert torch.equal(batch.targets, torch.cat([share.targets for share in shares]))


def test_evaluation_reads_each_held_out_document_once(source: Text) -> None:
    for batch_size in (None, 1, 2, 100):
        loader = source.loader("all", "test", batch_size=batch_size)
        inputs, targets = streams_of(loader)
        texts = [text for stream in targets for text in split_at_ends(stream)]
        assert sorted(texts) == sorted(t.encode() for t in texts_of(source, "all", "test"))
        assert int((targets >= 0).sum()) == source.documents("all", "test").tokens
        assert torch.equal(
            inputs[:, 1:][targets[:, :-1] >= 0], targets[:, :-1][targets[:, :-1] >= 0]
        )
        assert loader.samples == len(inputs) * len(loader)


def test_shares_divide_the_streams(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus", domains="abc")
    source = text(path, streams=5, span=8, shares={"c": 3, "a": 2})
    _, targets = streams_of(source.loader("all", "train", shuffle=True), epochs=2)
    domains = [{text[:1] for text in split_at_ends(stream)} for stream in targets]
    assert domains == [{b"c"}, {b"c"}, {b"c"}, {b"a"}, {b"a"}]
    assert {text[0] for text in texts_of(source, "all", "val")} == {"a", "c"}


def test_largest_remainders() -> None:
    assert allotted(48, [60, 40]) == [29, 19]
    assert allotted(3, [1, 1]) == [2, 1]
    for streams in range(1, 20):
        assert sum(allotted(streams, [0.2, 0.5, 0.3])) == streams


def test_shares_must_name_domains_and_give_a_stream(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus")
    with pytest.raises(ConfigError, match=r"data\.shares\.A: no such domain; there are a, b"):
        text(path, shares={"A": 1.0}).prepare()
    few = text(path, shares={"a": 99.0, "b": 1.0}, streams=2)
    with pytest.raises(ConfigError, match=r"data\.shares\.b: gets none of 2 streams"):
        few.loader("all", "train", shuffle=True)


def test_more_streams_than_documents_are_refused(source: Text) -> None:
    count = len(source.documents("a", "train"))
    with pytest.raises(ConfigError, match=rf"data\.streams: got 99 .*'a'.*at most {count}"):
        source.loader("a", "train", shuffle=True, batch_size=99)
    with pytest.raises(ConfigError, match=r"data\.streams: got 3 for 4 processes"):
        source.loader("a", "train", shuffle=True, world_size=4)


def test_a_span_longer_than_the_text_is_refused(tmp_path: Path) -> None:
    source = text(write_texts(tmp_path / "corpus"), span=10**9)
    with pytest.raises(ConfigError, match=r"data\.span: got 1000000000, but 'all' has only \d+"):
        source.loader("all", "train", shuffle=True)


def test_unknown_tasks_and_splits_are_named(source: Text) -> None:
    with pytest.raises(ConfigError, match=r"no task 'al'; it has a, b, all\. Did you mean 'all'"):
        source.loader("al", "train")
    with pytest.raises(ConfigError, match="no split 'valid'"):
        source.loader("all", "valid")  # type: ignore[arg-type]


def test_prefetched_batches_are_equal(source: Text) -> None:
    loader = source.loader("all", "train", shuffle=True)
    ahead = Prefetch(loader, 2, torch.device("cpu"))
    for one, other in zip(loader.batches(1), ahead.batches(1), strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_documents_longer_than_a_shard_and_a_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neuro.data.tokens.shards.SHARD_TOKENS", 40)
    source = text(write_texts(tmp_path / "corpus"), streams=2, span=8)
    folder = source.corpus.shards.path
    assert len(list(folder.glob("00-train-*.npy"))) > 5
    assert all(len(np.load(file)) <= 80 for file in folder.glob("*-train-*.npy"))
    _, targets = streams_of(source.loader("all", "train", shuffle=True), epochs=3)
    seen = {text for stream in targets for text in split_at_ends(stream)}
    assert seen == {text.encode() for text in texts_of(source, "all", "train")}


def test_tests_can_be_divided_by_the_position_in_a_document(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "corpus")
    source = text(path, streams=3, span=16, positions=(0, 5, 30), test_fraction=0.3)
    assert source.tasks == ("a", "b", "all", "all_from_0", "all_from_5", "all_from_30")
    documents = [[*text.encode(), END] for text in texts_of(source, "all", "test")]
    for task, labelled in (("0", range(5)), ("5", range(5, 30)), ("30", range(30, 999))):
        inputs, targets = streams_of(source.loader(f"all_from_{task}", "test"))
        found = []
        for stream, labels in zip(inputs, targets, strict=True):
            first = (stream == END).nonzero()[:, 0].tolist()
            for start, stop in pairwise([*first, len(stream)]):
                own = labels[start:stop]
                inside = torch.arange(stop - start)[own >= 0]
                if len(inside):
                    assert set(inside.tolist()) <= set(labelled)
                    found.append((stream[start + 1 : stop].tolist(), own[inside].tolist()))
        wanted = [(d[: labelled.stop][:-1], d[labelled.start : labelled.stop]) for d in documents]
        assert sorted(found) == sorted((seen, labels) for seen, labels in wanted if labels)
    assert len(source.loader("all_from_0", "test")) < len(source.loader("all", "test"))


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((5, 5), "positions: got .*give increasing numbers"),
        ((0, 500), "data.positions: got 500, but the longest test document has"),
    ],
)
def test_positions_that_are_refused(
    tmp_path: Path, positions: tuple[int, ...], message: str
) -> None:
    path = write_texts(tmp_path / "corpus")
    with pytest.raises((ConfigError, ValueError), match=message):
        text(path, positions=positions).prepare()


def test_a_part_of_the_tests_is_not_trained(tmp_path: Path) -> None:
    source = text(write_texts(tmp_path / "corpus"), positions=(0,))
    with pytest.raises(ConfigError, match="'all_from_0' is a part of the tests; train on 'all'"):
        source.loader("all_from_0", "train", shuffle=True)
