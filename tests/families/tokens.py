"""A token-stream family: a made language in persistent streams, and a recurrent model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import numpy as np
import torch
from annotated_types import Gt
from torch import Tensor, nn

from neuro.data.base import Batch, DataSource, InputSpec, Loader, Split, TargetSpec, TaskSpec
from neuro.models.base import CoreModel, ModelOutput

Count = Annotated[int, Gt(0)]
VOCABULARY = 7


class TokenStreams(DataSource):
    """Documents in which each token is the sum of the two before it, in `streams` streams.

    A batch is the next `span` tokens of every stream; each stream has its own order of documents.
    """

    def __init__(self, streams: Count = 4, span: Count = 5, documents: Count = 24, seed: int = 3):
        self.batch_size = streams
        self.span = span
        self.documents = documents
        self.seed = seed

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("language",)

    def prepare(self) -> None:
        """Documents are made when they are read."""

    def spec(self, task: str) -> TaskSpec:
        return TaskSpec(
            task, InputSpec((), "int", VOCABULARY), TargetSpec("token", classes=VOCABULARY),
            ((self.span, None),), documents=True,
        )  # fmt: skip

    def loader(
        self, task: str, split: Split, *, shuffle: bool = False, seed: int = 0, rank: int = 0,
        world_size: int = 1, batch_size: int | None = None,
    ) -> Loader:  # fmt: skip
        return _StreamLoader(self, split, shuffle, seed, rank, world_size)


class _StreamLoader(Loader):
    def __init__(
        self, source: TokenStreams, split: Split, shuffle: bool, seed: int, rank: int,
        world_size: int,
    ):  # fmt: skip
        self.source, self.shuffle, self.seed = source, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.split = ("train", "val", "test").index(split)
        self.spans = 6 if split == "train" else 2
        self.samples = self.spans * source.batch_size

    def __len__(self) -> int:
        return self.spans

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        span, streams = self.source.span, self.source.batch_size
        tokens, firsts = self._tokens(epoch if self.shuffle else 0)
        own = np.array_split(np.arange(streams), self.world_size)[self.rank]
        for position in range(start * span, self.spans * span, span):
            inputs = tokens[own, position : position + span]
            targets = tokens[own, position + 1 : position + span + 1]
            yield Batch(
                torch.from_numpy(inputs), torch.from_numpy(targets), None,
                task="language", starts=torch.from_numpy(firsts[own, position]),
            )  # fmt: skip

    def _tokens(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of all streams in an epoch, and where documents begin: `[streams, length + 1]`."""
        length = self.spans * self.source.span + 1
        tokens = np.zeros((self.source.batch_size, length), np.int64)
        firsts = np.zeros(tokens.shape, bool)
        for stream in range(len(tokens)):
            rng = np.random.default_rng([self.source.seed, self.split, self.seed, epoch, stream])
            place = 0
            while place < length:
                document = _document(int(rng.integers(self.source.documents)))
                cut = document[: length - place]
                tokens[stream, place : place + len(cut)] = cut
                firsts[stream, place] = True
                place += len(cut)
        return tokens, firsts


def _document(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    tokens = list(rng.integers(VOCABULARY, size=2))
    for _ in range(8 + 2 * int(rng.integers(4))):
        tokens.append((tokens[-1] + tokens[-2]) % VOCABULARY)
    return np.array(tokens)


class Hidden(NamedTuple):
    """The state of the recurrent layer, `[B, units]`."""

    h: Tensor


class TokenModel(CoreModel):
    """An embedding, a gated recurrent layer, and scores of the next token."""

    def __init__(self, spec: TaskSpec, units: Count = 12):
        super().__init__()
        assert spec.inputs.vocabulary is not None
        self.units = units
        self.embedding = nn.Embedding(spec.inputs.vocabulary, units)
        self.layer = nn.GRU(units, units, batch_first=True)
        self.readout = nn.Linear(units, spec.outputs)

    def initial_state(self, batch_size: int) -> Hidden:
        return Hidden(self.readout.weight.new_zeros(batch_size, self.units))

    def forward(self, inputs, state=None, *, dt_ms, record=()):
        state = self.initial_state(len(inputs)) if state is None else state
        hidden, last = self.layer(self.embedding(inputs), state.h[None])
        return ModelOutput(self.readout(hidden), Hidden(last[0]), {})
