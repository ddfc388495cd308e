"""Tokenizers: text to integers and back, without loss.

Symbols 0 to `vocabulary` - 1 have a fixed number of UTF-8 bytes each (`symbol_bytes`), so that bits
per byte can be computed for any tokenizer. One symbol, `document_end`, has none: it ends documents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge

from neuro.config.paths import expanded
from neuro.data.store import Array
from neuro.data.tokens.shards import TOKENIZER, read_json
from neuro.errors import DataError


def saved_state(file: Path, part: str) -> dict[str, Any]:
    """The state of a tokenizer beside other shards, or in the file; `part` is a key that it has.

    DataError if it is missing, or that of another kind of tokenizer.
    """
    path = file / TOKENIZER if file.is_dir() else file
    state = read_json(path)
    if not isinstance(state.get(part), str):
        raise DataError(
            f"data.tokenizer.file: {path} is the state of another kind of tokenizer; give the "
            "folder of shards that were made with this kind (data/tokenizer)."
        )
    return state


class Tokenizer(ABC):
    """Maps text to symbols. Its state is plain JSON, which is stored beside the shards."""

    supplied: tuple[str, ...] = ()

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The arguments as plain values, by which a config is compared with existing shards."""

    def train(self, texts: Iterable[str], characters: Iterable[str]) -> None:
        """Fit to the training documents `texts`; `characters` occur in any document.

        DataError if they do not fit the vocabulary.
        """

    def state_dict(self) -> dict[str, Any]:
        """What `train` has found, as plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load the state of an equal tokenizer."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of symbols."""

    @property
    @abstractmethod
    def document_end(self) -> int:
        """The symbol that ends a document."""

    @property
    @abstractmethod
    def symbol_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes of each symbol, 0 for `document_end`."""

    @abstractmethod
    def encode(self, text: str) -> Array:
        """The symbols of a text, integers `[T]`. DataError for characters that have none."""

    def encode_all(self, texts: Sequence[str]) -> list[Array]:
        """The symbols of several texts."""
        return [self.encode(text) for text in texts]

    @abstractmethod
    def decode(self, symbols: Iterable[int]) -> str:
        """The text of symbols; U+FFFD for bytes that are not whole characters, nothing for
        `document_end`.
        """


@runtime_checkable
class Tokenised(Protocol):
    """Data whose inputs are the tokens of a tokenizer, which is usable after `prepare`."""

    tokenizer: Tokenizer


class ByteTokenizer(Tokenizer):
    """The UTF-8 bytes, symbols 0 to 255, and the end of a document, 256."""

    vocabulary = 257
    document_end = 256
    symbol_bytes = (*(1,) * 256, 0)

    def settings(self) -> Mapping[str, Any]:
        return {}

    def encode(self, text: str) -> Array:
        return np.frombuffer(text.encode(), np.uint8)

    def decode(self, symbols: Iterable[int]) -> str:
        return bytes(s for s in symbols if s != self.document_end).decode("utf-8", "replace")


class CharTokenizer(Tokenizer):
    """The characters that occur in the text, sorted by code point, then the end of a document.

    - `most`: limit of their number, so that text of an unexpected kind is noticed
    - `file`: a tokenizer of other shards (`tokenizer.json`, or their folder) to use as it is
    """

    def __init__(self, most: Annotated[int, Ge(1)] | None = None, file: str | None = None):
        self.most = most
        self.file = None if file is None else Path(expanded(file))
        self._characters = ""

    def settings(self) -> Mapping[str, Any]:
        return {"most": self.most, "file": None if self.file is None else str(self.file)}

    def train(self, texts: Iterable[str], characters: Iterable[str]) -> None:
        if self.file is not None:
            self.load_state_dict(saved_state(self.file, "characters"))
        else:
            self._characters = "".join(sorted(set(characters)))
        if self.most is not None and len(self._characters) > self.most:
            raise DataError(
                f"data.tokenizer.most: got {self.most}, but {len(self._characters)} different "
                "characters occur in the text. Give at least as many, or use data/tokenizer=byte."
            )

    def state_dict(self) -> dict[str, Any]:
        return {"characters": self._characters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._characters = state["characters"]

    @property
    def vocabulary(self) -> int:
        return len(self._characters) + 1

    @property
    def document_end(self) -> int:
        return len(self._characters)

    @property
    def symbol_bytes(self) -> tuple[int, ...]:
        return (*(len(c.encode()) for c in self._characters), 0)

    def encode(self, text: str) -> Array:
        known, points = _code_points(self._characters), _code_points(text)
        found = np.searchsorted(known, points)
        missing = known[np.minimum(found, len(known) - 1)] != points
        if missing.any():
            character = text[int(missing.argmax())]
            raise DataError(
                f"The character {character!r} (U+{ord(character):04X}) is not among the "
                f"{len(known)} of the tokenizer, which are those of its text. Remove it, or train "
                "with data/tokenizer=byte, which has all characters."
            )
        return found

    def decode(self, symbols: Iterable[int]) -> str:
        return "".join(self._characters[s] for s in symbols if s != self.document_end)


def _code_points(text: str) -> Array:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
