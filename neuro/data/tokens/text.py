"""Text in persistent streams.

Each domain of the sources is a task, and `all` is their mixture. A document is in one split only:
a fraction of each domain's documents, chosen by the hashes of their texts, is held out. A text that
occurs twice is kept once.

With `positions` the tests can be divided by the position of a token in its document: the task
`all_from_64` has the documents of `all`, with labels from token 64 to before the next position, and
cut there.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Interval

from neuro.config.paths import expanded
from neuro.config.types import Count, Fraction, Seed
from neuro.data.base import SPLITS, DataSource, InputSpec, Loader, Split, TargetSpec, TaskSpec
from neuro.data.tokens.corpus import MIXTURE, Corpus
from neuro.data.tokens.files import TextFiles
from neuro.data.tokens.shards import Documents, joined
from neuro.data.tokens.sources import DocumentSource
from neuro.data.tokens.streams import EndlessStreams, FiniteStreams, allotted, deal
from neuro.data.tokens.tokenizers import Tokenizer
from neuro.errors import ConfigError, nearest

#: of a document
MOST_TOKENS = 1 << 40


class Text(DataSource):
    """Documents in streams, tokenised. Keys are explained in `conf/data/text.yaml`.

    The tokenizer is usable after `prepare`.
    """

    batch_key = "streams"

    def __init__(
        self,
        *,
        sources: dict[str, DocumentSource],
        tokenizer: Tokenizer,
        path: str | None = None,
        streams: Count = 16,
        span: Annotated[int, Ge(2)] = 256,
        positions: tuple[Annotated[int, Interval(ge=0, le=MOST_TOKENS)], ...] | None = None,
        shares: dict[str, Annotated[float, Gt(0)]] | None = None,
        val_fraction: Fraction = 0.05,
        test_fraction: Fraction = 0.05,
        split_seed: Seed = 0,
        shards: str | None = None,
        tokenizer_hash: str | None = None,
        root: str | None = None,
        limit_train: Count | None = None,
        limit_val: Count | None = None,
        limit_test: Count | None = None,
    ):
        chosen = dict(sources)
        if path is not None:
            configured = sources.get("text")
            files = configured if isinstance(configured, TextFiles) else TextFiles()
            chosen = {"text": files.at(path)}
        for name, source in chosen.items():
            if isinstance(source, TextFiles) and not source.given:
                raise ValueError(
                    f"sources.{name}.path: got none; give a text file or a folder of them, or "
                    "data.path"
                )
        if not chosen:
            raise ValueError("sources: got none; give at least one, or data.path")
        if test_fraction + val_fraction >= 1:
            raise ValueError(
                f"test_fraction, val_fraction: got {test_fraction:g} and {val_fraction:g}, which "
                "leave nothing to train on; give less than 1 together"
            )
        first = positions or ()
        if any(a >= b for a, b in pairwise(first)):
            raise ValueError(f"positions: got {list(first)}; give increasing numbers of tokens")
        #: labelled positions of a document, by task
        self.ranges = {
            f"{MIXTURE}_from_{a}": range(a, b) for a, b in pairwise((*first, MOST_TOKENS + 1))
        }
        self.tokenizer = tokenizer
        self.corpus = Corpus(
            chosen,
            tokenizer,
            {"test": test_fraction, "val": val_fraction},
            split_seed,
            Path(expanded(root or os.environ.get("NEURO_DATA") or ".data")),
            shards,
            tokenizer_hash,
        )
        self.batch_size = streams
        self.span = span
        self.shares = shares
        self.split_seed = split_seed
        self.limits: dict[Split, int | None] = {
            "train": limit_train,
            "val": limit_val,
            "test": limit_test,
        }
        self._dealt: dict[tuple[object, ...], list[Documents]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        return (*self.corpus.domains, MIXTURE, *self.ranges)

    def prepare(self) -> None:
        """Open the tokens, which are made of the sources first if there are none."""
        domains = self.corpus.domains
        for domain in self.shares or ():
            if domain not in domains:
                raise ConfigError(
                    f"data.shares.{domain}: no such domain; there are {', '.join(domains)}."
                    + nearest(domain, domains)
                )
        _ = self.corpus.shards
        if self.ranges:
            longest = int(self.documents(MIXTURE, "test").length.max())
            last = max(labelled.start for labelled in self.ranges.values())
            if last >= longest:
                raise ConfigError(
                    f"data.positions: got {last}, but the longest test document has {longest} "
                    "tokens; give smaller positions."
                )

    def measured(self) -> dict[str, Any]:
        shards = self.corpus.shards
        return {"shards": shards.path.name, "tokenizer_hash": shards.tokenizer_hash}

    def spec(self, task: str) -> TaskSpec:
        self._check_task(task)
        self.prepare()
        tokenizer = self.tokenizer
        return TaskSpec(
            task,
            InputSpec((), "int", tokenizer.vocabulary, tokenizer.document_end),
            TargetSpec("token", classes=tokenizer.vocabulary, symbol_bytes=tokenizer.symbol_bytes),
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
        """Batches `[streams, span]`; `batch_size` is the number of streams.

        Training (`shuffle=True`) is endless; else each document is read once, by at most as many
        streams as there are documents. ConfigError if training has more streams than documents.
        """
        assert 0 <= rank < world_size
        self._check_task(task)
        labelled = self.ranges.get(task)
        if shuffle and labelled is not None:
            raise ConfigError(
                f"data: '{task}' is a part of the tests; train on '{MIXTURE}' and name it in "
                "phase.NAME.evaluate."
            )
        if split not in SPLITS:
            raise ConfigError(f"data: no split {split!r}; there are {', '.join(SPLITS)}.")
        self.prepare()
        streams = self.batch_size if batch_size is None else batch_size
        end = self.tokenizer.document_end
        if not shuffle:
            streams = min(streams, len(self.documents(task, split)))
            dealt = self._dealt_to(task, split, streams, None)
            return FiniteStreams(dealt, task, self.span, end, rank, world_size, labelled=labelled)
        if streams < world_size:
            raise ConfigError(
                f"data.streams: got {streams} for {world_size} processes; they are divided among "
                f"them, so give at least {world_size}."
            )
        tokens = self.documents(task, split).tokens
        if self.span > tokens:
            raise ConfigError(
                f"data.span: got {self.span}, but '{task}' has only {tokens} training tokens; give "
                "at most as many."
            )
        dealt = self._dealt_to(task, split, streams, seed)
        return EndlessStreams(dealt, task, self.span, end, rank, world_size, seed=seed)

    def documents(self, task: str, split: Split) -> Documents:
        """The documents of a task's split, up to `limit_<split>` of them.

        Those of a part of the tests are cut behind its last position.
        """
        domains = self.corpus.domains
        mixture = domains if self.shares is None else tuple(self.shares)
        chosen = (task,) if task in domains else mixture
        found = joined([self.corpus.shards.documents(domain, split) for domain in chosen])
        limit = self.limits[split]
        if limit is not None and limit < len(found):
            order = np.random.default_rng([self.split_seed, 1]).permutation(len(found))
            found = found.select(np.sort(order[:limit]))
        return found.cut(self.ranges[task].stop) if task in self.ranges else found

    def _dealt_to(self, task: str, split: Split, streams: int, seed: int | None) -> list[Documents]:
        """The documents of each stream; with `seed` for training, else for evaluation.

        In training with shares each stream of the mixture has one domain.
        """
        key = (task, split, streams, seed)
        if key in self._dealt:
            return self._dealt[key]
        parts = {task: streams}
        if seed is not None and task == MIXTURE and self.shares is not None:
            parts = dict(zip(self.shares, allotted(streams, [*self.shares.values()]), strict=True))
        dealt: list[Documents] = []
        for number, (part, count) in enumerate(parts.items()):
            documents = self.documents(part, split)
            if count == 0:
                raise ConfigError(
                    f"data.shares.{part}: gets none of {streams} streams (data.streams). Give it a "
                    "larger share, or more streams."
                )
            if seed is not None and count > len(documents):
                raise ConfigError(
                    f"data.streams: got {count} streams for '{part}', which has {len(documents)} "
                    f"training documents; each stream needs one. Give at most {len(documents)}, or "
                    "cut documents (data.sources.<name>.document of text files)."
                )
            dealt += deal(documents, count, None if seed is None else seed + number)
        self._dealt[key] = dealt
        return dealt

    def _check_task(self, task: str) -> None:
        if task not in self.tasks:
            raise ConfigError(
                f"data: no task {task!r}; it has {', '.join(self.tasks)}."
                + nearest(task, self.tasks)
            )
