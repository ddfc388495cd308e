"""Persistent streams of tokens: batches that continue each stream where the last one ended.

In training, each stream owns some of the documents and repeats them endlessly, in another order in
every pass. Documents are dealt to streams such that these are about equally long. A stream is one
endless sequence y of documents with their ends; the inputs are y delayed by one token, beginning
with an end of document, so that every token is a target exactly once per pass: none is lost between
batches, documents, or epochs. Tokens `[n T, (n + 1) T)` of all streams are batch n. An epoch is as
many batches as have the tokens of all documents. So the order is a pure function of (seed, epoch),
and a position in it is found without reading what comes before.

In evaluation, each document is read once, in streams that end; what is left of a batch has no
label.
"""

from __future__ import annotations

import heapq
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from neuro.data.base import Batch, Loader
from neuro.data.store import NO_LABEL, Array
from neuro.data.tokens.shards import Documents


class Piece(NamedTuple):
    """Consecutive targets of a stream, and the inputs at the same steps, `[T]` each.

    Targets are -100 without a label.
    """

    inputs: Array
    targets: Array


class StreamLoader(Loader):
    """Batches of `streams` streams, of which a process has a contiguous share."""

    def __init__(
        self, task: str, streams: int, span: int, document_end: int, rank: int, world_size: int
    ):
        self.task = task
        self.span = span
        self.document_end = document_end
        self.own = np.array_split(np.arange(streams), world_size)[rank]
        self.streams = streams

    @abstractmethod
    def piece(self, stream: int, epoch: int, start: int) -> Piece:
        """The steps from `start` to before `start + span` of an epoch of a stream."""

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for number in range(start, len(self)):
            inputs = np.empty((len(self.own), self.span), np.int64)
            targets = np.empty_like(inputs)
            for row, stream in enumerate(self.own):
                inputs[row], targets[row] = self.piece(int(stream), epoch, number * self.span)
            yield Batch(
                torch.from_numpy(inputs),
                torch.from_numpy(targets),
                None,
                task=self.task,
                starts=torch.from_numpy(inputs[:, 0] == self.document_end),
            )


class _Pass(NamedTuple):
    """The order of a stream's documents in one pass; `ends [N]`: tokens up to each one's end."""

    number: int
    order: Array
    ends: Array


class EndlessStreams(StreamLoader):
    """Training: streams that repeat their own documents, in an order that differs by pass.

    `dealt`: the documents of each stream.
    """

    def __init__(
        self,
        dealt: Sequence[Documents],
        task: str,
        span: int,
        document_end: int,
        rank: int,
        world_size: int,
        *,
        seed: int,
    ):
        super().__init__(task, len(dealt), span, document_end, rank, world_size)
        self.seed = seed
        self._dealt = dealt
        self._totals = [documents.tokens for documents in dealt]
        self._length = math.ceil(sum(self._totals) / (span * len(dealt)))
        self.samples = self._length * len(dealt)
        self._passes: dict[int, _Pass] = {}

    def __len__(self) -> int:
        return self._length

    def piece(self, stream: int, epoch: int, start: int) -> Piece:
        first = epoch * self._length * self.span + start
        tokens = np.empty(self.span + 1, np.int64)
        tokens[0] = self.document_end
        skipped = 1 if first == 0 else 0  # there is no token before the first one
        self._read(stream, first - 1 + skipped, tokens[skipped:])
        return Piece(tokens[:-1], tokens[1:])

    def _read(self, stream: int, place: int, into: Array) -> None:
        """Fill an array with the tokens of a stream from `place` on."""
        documents = self._dealt[stream]
        total = self._totals[stream]
        filled = 0
        while filled < len(into):
            number, offset = divmod(place + filled, total)
            own = self._passes.get(stream)
            if own is None or own.number != number:
                rng = np.random.default_rng([self.seed, stream, number])
                order = rng.permutation(len(documents))
                own = _Pass(number, order, np.cumsum(documents.length[order]))
                self._passes[stream] = own
            filled += _copy(documents, own.order, own.ends, offset, into[filled:])


class FiniteStreams(StreamLoader):
    """Evaluation: every document once; all epochs are the same.

    `labelled`: positions in a document of the tokens that have labels; None: all.
    """

    def __init__(
        self,
        dealt: Sequence[Documents],
        task: str,
        span: int,
        document_end: int,
        rank: int,
        world_size: int,
        *,
        labelled: range | None = None,
    ):
        super().__init__(task, len(dealt), span, document_end, rank, world_size)
        self._dealt = dealt
        self._labelled = labelled
        longest = max((documents.tokens for documents in dealt), default=0)
        self._length = math.ceil(longest / span)
        self.samples = self._length * len(dealt)

    def __len__(self) -> int:
        return self._length

    def piece(self, stream: int, epoch: int, start: int) -> Piece:
        documents = self._dealt[stream]
        inputs = np.full(self.span, self.document_end, np.int64)
        targets = np.full(self.span, NO_LABEL, np.int64)
        order, ends = self._ordered[stream]
        left = max(0, min(self.span, int(ends[-1]) - start))
        if left:
            _copy(documents, order, ends, start, targets[:left])
            if start:
                _copy(documents, order, ends, start - 1, inputs[:1])
            inputs[1:left] = targets[: left - 1]
        if self._labelled is not None:
            steps = np.arange(start, start + left)
            number = np.searchsorted(ends, steps, side="right")
            position = steps - (ends[number] - documents.length[order[number]])
            inputs[:left][position == 0] = self.document_end  # the document before it may be cut
            inside = (position >= self._labelled.start) & (position < self._labelled.stop)
            targets[:left][~inside] = NO_LABEL
        return Piece(inputs, targets)

    @cached_property
    def _ordered(self) -> list[tuple[Array, Array]]:
        return [(np.arange(len(d)), np.cumsum(d.length)) for d in self._dealt]


def _copy(documents: Documents, order: Array, ends: Array, offset: int, into: Array) -> int:
    """Copy tokens of documents in an order, from `offset` on; returns how many there were."""
    filled = 0
    position = int(np.searchsorted(ends, offset, side="right"))
    while filled < len(into) and position < len(order):
        number = int(order[position])
        left = int(ends[position]) - offset - filled
        count = min(left, len(into) - filled)
        stop = int(documents.length[number]) - left + count
        into[filled : filled + count] = documents.read(number, stop - count, stop)
        filled += count
        position += 1
    return filled


def deal(documents: Documents, streams: int, seed: int | None = None) -> list[Documents]:
    """Divide documents among streams such that these have about equally many tokens.

    The longest ones are dealt first, each to the stream that has the fewest tokens (Graham 1969).
    `seed` shuffles documents of equal length; None leaves them in their order.
    """
    order = np.arange(len(documents))
    if seed is not None:
        np.random.default_rng([seed, streams]).shuffle(order)
    order = order[np.argsort(-documents.length[order], kind="stable")]
    heap = [(0, stream) for stream in range(streams)]
    owner = np.empty(len(order), np.int64)
    for number, length in zip(order.tolist(), documents.length[order].tolist(), strict=True):
        tokens, stream = heap[0]
        owner[number] = stream
        heapq.heapreplace(heap, (tokens + length, stream))
    return [documents.select(np.flatnonzero(owner == stream)) for stream in range(streams)]


def allotted(streams: int, shares: Sequence[float]) -> list[int]:
    """Streams of each domain, by the largest remainders of its share."""
    exact = [streams * share / sum(shares) for share in shares]
    counts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_remainder[: streams - sum(counts)]:
        counts[i] += 1
    return counts
