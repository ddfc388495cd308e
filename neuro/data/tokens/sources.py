"""Sources of text: documents by domain, before they are tokenised."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

#: called with (done, total) while documents are read
Report = Callable[[int, int], None]


class Document(NamedTuple):
    """A text, and the domain that it belongs to.

    Documents of the same `group` (within a source) are in the same split, as parts of one text
    whose wording they share; None: a group of its own.
    """

    domain: str
    text: str
    group: str | None = None


class DocumentSource(ABC):
    """Texts of one or several domains, which become tasks of the data."""

    supplied: tuple[str, ...] = ()

    @abstractmethod
    def domains(self, name: str) -> tuple[str, ...]:
        """The domains; `name` is the source's key in the config, for a source that is one domain.

        Called before anything is read. DataError for files that are missing.
        """

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The arguments as plain values, by which a config is compared with existing shards."""

    @abstractmethod
    def fingerprint(self) -> Any:
        """Plain values that differ for other documents, such as names and sizes of files.

        It must not take long: it is computed at the start of every run.
        """

    def versions(self) -> Mapping[str, str]:
        """Versions of packages or data sets, for the manifest."""
        return {}

    @abstractmethod
    def documents(self, name: str, report: Report) -> Iterator[Document]:
        """All documents, in an order that does not change. DataError for files that are damaged."""
