"""Made tasks in which memory is needed, as endless streams of tokens with documents.

Labels exist only at queries, whose answers lie a known number of tokens back, so that accuracy can
be measured against distance. Chance is 1 / `values`. Training batches can have a
share of the other next tokens as labels, too: a model that writes what surprises it must have
learned what is predictable, but most gradients must come from queries.

- `recall`: associative recall. `SET k v` for each of some pairs, filler, then `GET k` in the same
  order; the label at k is the value. Every query is `distance` tokens after its pair.
- `recall_across`: the same, but a document ends between the pairs and the queries, so only a memory
  that outlives documents can answer
- `induction`: a sequence of different values, filler, then the sequence again; the label of each of
  its symbols is the next one (Olsson et al. 2022, in-context learning and induction heads)
- `copy`: a sequence of values, filler, then a `GET` for each, whose label is the value `distance`
  tokens back (the copying memory problem; Hochreiter and Schmidhuber 1997, Arjovsky et al. 2016)

Filler, pairs and values are random in every document, so weights cannot store answers.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal, NamedTuple, get_args

import numpy as np
from annotated_types import Ge, Interval, MinLen

from neuro.config.types import Count, Seed
from neuro.data.base import SPLITS, DataSource, InputSpec, Loader, Split, TargetSpec, TaskSpec
from neuro.data.store import NO_LABEL, Array
from neuro.data.tokens.streams import Piece, StreamLoader
from neuro.errors import ConfigError, nearest

Kind = Literal["recall", "recall_across", "induction", "copy"]

ALL_KINDS: tuple[Kind, ...] = get_args(Kind)

_MOST_STEPS = 1 << 24  #: of an epoch of a stream
_MOST_SYMBOLS = 1 << 20  #: of each kind
_MOST_STREAMS = 1 << 16

#: the task of all kinds and distances
MIXTURE = "all"


class Symbols(NamedTuple):
    """The vocabulary: values, keys, fillers, then SET, GET and the end of a document."""

    values: int
    keys: int
    fillers: int

    @property
    def vocabulary(self) -> int:
        return sum(self) + 3

    @property
    def set(self) -> int:
        return sum(self)

    @property
    def get(self) -> int:
        return sum(self) + 1

    @property
    def document_end(self) -> int:
        return sum(self) + 2

    def filler(self, count: int, rng: np.random.Generator) -> Array:
        return rng.integers(self.values + self.keys, self.set, count)


class MemoryTasks(DataSource):
    """Tasks `<kind>_<distance>`, `<kind>` with all distances, and `all`.

    Keys are explained in `conf/data/memory_tasks.yaml`.
    """

    batch_key = "streams"

    def __init__(
        self,
        *,
        kinds: Annotated[tuple[Kind, ...], MinLen(1)] = ALL_KINDS,
        distances: Annotated[tuple[Count, ...], MinLen(1)] = (32, 128, 512),
        items: Annotated[int, Ge(2)] = 4,
        values: Annotated[int, Interval(ge=2, le=_MOST_SYMBOLS)] = 16,
        keys: Annotated[int, Interval(ge=1, le=_MOST_SYMBOLS)] = 32,
        fillers: Annotated[int, Interval(ge=1, le=_MOST_SYMBOLS)] = 16,
        streams: Annotated[int, Interval(ge=1, le=_MOST_STREAMS)] = 16,
        span: Annotated[int, Ge(2)] = 256,
        train: Count = 64,
        val: Count = 8,
        test: Count = 16,
        other_labels: Annotated[float, Interval(ge=0, le=1)] = 0.0,
        split_seed: Seed = 0,
    ):
        self.kinds = tuple(dict.fromkeys(kinds))
        self.distances = tuple(sorted(set(distances)))
        self.items = items
        self.symbols = Symbols(values, keys, fillers)
        self.batch_size = streams
        self.span = span
        self.lengths: dict[Split, int] = {"train": train, "val": val, "test": test}
        self.other_labels = other_labels
        self.split_seed = split_seed
        if items > keys:
            raise ValueError(f"items: got {items}, but there are {keys} keys; give at most as many")
        if items > values and "induction" in self.kinds:
            raise ValueError(
                f"items: got {items}, but there are {values} values, of which induction needs as "
                "many different ones; give at most as many"
            )
        if self.distances[0] <= 3 * items:
            raise ValueError(
                f"distances: got {self.distances[0]}, but {items} pairs (items) take {3 * items} "
                "tokens; give more than that"
            )
        longest = self.distances[-1] + 3 * items + 1
        for split, length in self.lengths.items():
            if length * span > _MOST_STEPS:
                raise ValueError(
                    f"{split}: got {length} batches of {span} tokens (span), which are made at "
                    f"once for each stream; give at most {_MOST_STEPS} tokens together"
                )
            if length * span < longest:
                raise ValueError(
                    f"{split}: got {length} batches of {span} tokens, in which no document of "
                    f"{longest} tokens (distances) fits; give at least {-(-longest // span)}"
                )

    @cached_property
    def _contents(self) -> dict[str, tuple[tuple[Kind, int], ...]]:
        """Kinds and distances of the documents of each task."""
        pairs = tuple((kind, distance) for kind in self.kinds for distance in self.distances)
        return {
            **{f"{kind}_{distance}": ((kind, distance),) for kind, distance in pairs},
            **{kind: tuple(pair for pair in pairs if pair[0] == kind) for kind in self.kinds},
            MIXTURE: pairs,
        }

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self._contents)

    def prepare(self) -> None:
        """Documents are made when they are read."""

    def spec(self, task: str) -> TaskSpec:
        self._check_task(task)
        vocabulary = self.symbols.vocabulary
        return TaskSpec(
            task,
            InputSpec((), "int", vocabulary, self.symbols.document_end),
            TargetSpec("token", classes=vocabulary),
            ((self.span, None),),
            documents=True,
        )

    def loader(
        self,
        task: str,
        split: Split,
        *,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
    ) -> Loader:
        assert 0 <= rank < world_size
        self._check_task(task)
        streams = self.batch_size if batch_size is None else batch_size
        if shuffle and streams < world_size:
            raise ConfigError(
                f"data.streams: got {streams} for {world_size} processes; they are divided among "
                f"them, so give at least {world_size}."
            )
        return _MadeStreams(
            self,
            self._contents[task],
            task,
            streams,
            rank,
            world_size,
            length=self.lengths[split],
            other_labels=self.other_labels if split == "train" else 0.0,
            seed=(self.split_seed, SPLITS.index(split), *((1, seed) if shuffle else (0,))),
        )

    def document(self, kind: Kind, distance: int, rng: np.random.Generator) -> Piece:
        """Inputs and labels of one document (`recall_across`: of two halves of documents)."""
        symbols, count = self.symbols, self.items
        values = rng.integers(symbols.values, size=count)
        if kind == "copy":
            inputs = [values, symbols.filler(distance - count, rng), np.full(count, symbols.get)]
            labels = values
        elif kind == "induction":
            values = rng.permutation(symbols.values)[:count]
            inputs = [values, symbols.filler(distance - count, rng), values]
            labels = np.append(values[1:], NO_LABEL)
        else:
            keys = symbols.values + rng.permutation(symbols.keys)[:count]
            pairs = np.stack([np.full(count, symbols.set), keys, values], 1).ravel()
            queries = np.stack([np.full(count, symbols.get), keys, values], 1).ravel()
            filler = symbols.filler(distance - len(pairs), rng)
            if kind == "recall_across":
                filler[rng.integers(len(filler))] = symbols.document_end
            inputs = [pairs, filler, queries]
            none = np.full(count, NO_LABEL)
            labels = np.stack([none, values, none], 1).ravel()
        if kind != "recall_across":
            inputs.append(np.array([symbols.document_end]))
            labels = np.append(labels, NO_LABEL)
        tokens = np.concatenate(inputs)
        targets = np.full(len(tokens), NO_LABEL)
        targets[len(tokens) - len(labels) :] = labels
        return Piece(tokens, targets)

    def _check_task(self, task: str) -> None:
        if task not in self.tasks:
            raise ConfigError(
                f"data: no task {task!r}; it has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )


class _MadeStreams(StreamLoader):
    """Streams that are made for each epoch, beginning with the end of a document."""

    def __init__(
        self,
        source: MemoryTasks,
        contents: tuple[tuple[Kind, int], ...],
        task: str,
        streams: int,
        rank: int,
        world_size: int,
        *,
        length: int,
        other_labels: float,
        seed: tuple[int, ...],
    ):
        super().__init__(task, streams, source.span, source.symbols.document_end, rank, world_size)
        self._source = source
        self._contents = contents
        self._length = length
        self._other_labels = other_labels
        self._seed = seed
        self._shuffled = len(seed) > 3
        self._made: dict[int, tuple[int, Piece]] = {}  # by stream: an epoch and its steps
        self.samples = length * streams

    def __len__(self) -> int:
        return self._length

    def piece(self, stream: int, epoch: int, start: int) -> Piece:
        epoch = epoch if self._shuffled else 0
        made = self._made.get(stream)
        if made is None or made[0] != epoch:
            made = self._made[stream] = epoch, self._make(stream, epoch)
        inputs, targets = (steps[start : start + self.span] for steps in made[1])
        return Piece(inputs, targets)

    def _make(self, stream: int, epoch: int) -> Piece:
        """All steps of an epoch of a stream; what exceeds its length is cut off."""
        rng = np.random.default_rng([*self._seed, epoch, stream])
        pieces = [Piece(np.array([self.document_end]), np.array([NO_LABEL]))]
        total = self._length * self.span
        made = 1
        while made < total:
            kind, distance = self._contents[rng.integers(len(self._contents))]
            pieces.append(self._source.document(kind, distance, rng))
            made += len(pieces[-1].inputs)
        inputs, targets = (np.concatenate(parts)[:total] for parts in zip(*pieces, strict=True))
        if self._other_labels:
            added = (targets == NO_LABEL) & (rng.random(total) < self._other_labels)
            targets = np.where(added, np.append(inputs[1:], NO_LABEL), targets)
        return Piece(inputs, targets)
