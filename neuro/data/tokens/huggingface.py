"""Data sets of Hugging Face as a source of documents, streamed once and kept as shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from annotated_types import Ge

from neuro.data.tokens.sources import Document, DocumentSource, Report
from neuro.errors import BackendUnavailable, DataError


class HuggingFace(DocumentSource):
    """The first documents of a data set, by the package `datasets` (extra `huggingface`).

    - `dataset`: its name, such as roneneldan/TinyStories, or a folder
    - `config`, `split`, `revision`: which part and version of it
    - `field`: the column that holds the text
    - `documents`: how many are read; null: all of them
    """

    def __init__(
        self,
        dataset: str,
        config: str | None = None,
        split: str = "train",
        revision: str | None = None,
        field: str = "text",
        documents: Annotated[int, Ge(1)] | None = None,
    ):
        self.dataset = dataset
        self.config = config
        self.split = split
        self.revision = revision
        self.field = field
        self.count = documents

    def domains(self, name: str) -> tuple[str, ...]:
        return (name,)

    def settings(self) -> Mapping[str, Any]:
        return {
            "dataset": self.dataset,
            "config": self.config,
            "split": self.split,
            "revision": self.revision,
            "field": self.field,
            "documents": self.count,
        }

    def fingerprint(self) -> Any:
        return self.settings()  # a data set is not asked for changes: it is downloaded once

    def versions(self) -> Mapping[str, str]:
        return {self.dataset: self.revision or "main"}

    def documents(self, name: str, report: Report) -> Iterator[Document]:
        for number, row in enumerate(itertools.islice(self._rows(), self.count), 1):
            text = row.get(self.field)
            if not isinstance(text, str):
                raise DataError(
                    f"data.sources.{name}.field: got {self.field!r}, which holds no text in "
                    f"{self.dataset}; it has {', '.join(row)}."
                )
            if text.strip():
                yield Document(name, text)
            if self.count is not None:
                report(number, self.count)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """The rows of the data set. DataError if it cannot be loaded."""
        try:
            import datasets
        except ImportError as error:
            raise BackendUnavailable(
                f"{self.dataset}: needs the package datasets, which is not installed. Install it "
                "with `pip install 'neuro[huggingface]'`, or use your own files (data.path)."
            ) from error
        try:
            yield from datasets.load_dataset(
                self.dataset, self.config, split=self.split, revision=self.revision, streaming=True
            )
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{self.dataset}: cannot be loaded ({type(error).__name__}: {reason}). Check its "
                "name and the network; files that you have are read with data.path."
            ) from error
