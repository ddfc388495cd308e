"""Tokenizers of byte pairs: trained on the text by `tokenizers`, or known ones of `tiktoken`.

Both work on UTF-8 bytes, so every text has tokens and comes back unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Le

from neuro.config.paths import expanded
from neuro.data.store import Array
from neuro.data.tokens.tokenizers import Tokenizer, saved_state
from neuro.errors import BackendUnavailable, DataError, nearest

if TYPE_CHECKING:
    from tiktoken import Encoding
    from tokenizers import Tokenizer as Trained

_END = "<|endoftext|>"
_BYTES = 256
_MOST = 1_000_000  #: symbols; the largest vocabularies in use have a quarter of that


class BPETokenizer(Tokenizer):
    """Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2), trained on the text.

    - `size`: most symbols: 256 bytes, the end of a document, and merges, as many as the text has
    - `file`: a trained tokenizer of other shards (`tokenizer.json`, or their folder) to use as it
      is, so that other text gets the tokens that a model has learned; its size is then that of
      the file
    """

    def __init__(self, size: Annotated[int, Le(_MOST)] = 1024, file: str | None = None):
        if size <= _BYTES:
            raise ValueError(
                f"size: got {size}; expected at least {_BYTES + 1}, for {_BYTES} bytes and the end "
                "of a document"
            )
        self.size = size
        self.file = None if file is None else Path(expanded(file))
        self._json = ""

    def settings(self) -> Mapping[str, Any]:
        return {"size": self.size, "file": None if self.file is None else str(self.file)}

    def train(self, texts: Iterable[str], characters: Iterable[str]) -> None:
        _require("tokenizers", "data/tokenizer=bpe")
        if self.file is not None:
            self.load_state_dict(saved_state(self.file, "bpe"))
            return
        from tokenizers import Tokenizer as Trained
        from tokenizers import decoders, models, pre_tokenizers, trainers

        tokenizer = Trained(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=self.size,
            initial_alphabet=alphabet,
            special_tokens=[_END],
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        self.load_state_dict({"bpe": tokenizer.to_str()})

    def state_dict(self) -> dict[str, Any]:
        return {"bpe": self._json}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._json = state["bpe"]
        self.__dict__.pop("_trained", None)

    @cached_property
    def _trained(self) -> Trained:
        _require("tokenizers", "data/tokenizer=bpe")
        from tokenizers import Tokenizer as Trained

        return Trained.from_str(self._json)

    @property
    def vocabulary(self) -> int:
        return int(self._trained.get_vocab_size())

    @property
    def document_end(self) -> int:
        return self._id(_END)

    def _id(self, token: str) -> int:
        found: int | None = self._trained.token_to_id(token)
        assert found is not None, "the end of a document and all bytes have symbols"
        return found

    @property
    def symbol_bytes(self) -> tuple[int, ...]:
        # in the byte-level alphabet each character of a token stands for one byte
        tokens = self._trained.get_vocab()
        sizes = {number: 0 if text == _END else len(text) for text, number in tokens.items()}
        return tuple(sizes[number] for number in range(len(sizes)))

    def encode(self, text: str) -> Array:
        return self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str]) -> list[Array]:
        # text that contains the end's name is encoded as its characters
        pieces = [text.split(_END) for text in texts]
        flat = self._trained.encode_batch(
            [piece for parts in pieces for piece in parts], add_special_tokens=False
        )
        name = [self._id(character) for character in _END]
        found, first = [], 0
        for parts in pieces:
            symbols = list(flat[first].ids)
            for encoded in flat[first + 1 : first + len(parts)]:
                symbols += [*name, *encoded.ids]
            found.append(np.array(symbols, np.int64))
            first += len(parts)
        return found

    def decode(self, symbols: Iterable[int]) -> str:
        return str(self._trained.decode(list(symbols), skip_special_tokens=True))


class TiktokenTokenizer(Tokenizer):
    """An encoding of the package tiktoken, such as gpt2 or cl100k_base.

    The package downloads an encoding's file on first use, and keeps it.
    """

    def __init__(self, name: str = "gpt2"):
        self.name = name

    def settings(self) -> Mapping[str, Any]:
        return {"name": self.name}

    @cached_property
    def _encoding(self) -> Encoding:
        _require("tiktoken", "data/tokenizer=tiktoken")
        import tiktoken

        names = tiktoken.list_encoding_names()
        if self.name not in names:
            raise DataError(
                f"data.tokenizer.name: got {self.name!r}; tiktoken has {', '.join(names)}."
                + nearest(self.name, names)
            )
        try:
            return tiktoken.get_encoding(self.name)
        except OSError as error:  # requests' errors are subclasses
            raise DataError(
                f"data.tokenizer.name: the file of {self.name!r} cannot be downloaded "
                f"({type(error).__name__}). Give TIKTOKEN_CACHE_DIR a folder that has it, or train "
                "a tokenizer with data/tokenizer=bpe."
            ) from error

    @property
    def vocabulary(self) -> int:
        return self._encoding.n_vocab

    @property
    def document_end(self) -> int:
        return self._encoding.eot_token

    @property
    def symbol_bytes(self) -> tuple[int, ...]:
        encoding = self._encoding
        sizes = np.zeros(encoding.n_vocab, np.int64)  # special symbols have no text
        ordinary = encoding.token_byte_values()
        for token in ordinary:
            sizes[encoding.encode_single_token(token)] = len(token)
        return tuple(sizes.tolist())

    def encode(self, text: str) -> Array:
        return np.array(self._encoding.encode_ordinary(text), np.int64)

    def decode(self, symbols: Iterable[int]) -> str:
        return self._encoding.decode([s for s in symbols if s != self.document_end])


def _require(package: str, option: str) -> None:
    """BackendUnavailable if a package of the extra `text` is not installed."""
    try:
        __import__(package)
    except ImportError as error:
        raise BackendUnavailable(
            f"{option} needs the package {package}, which is not installed. Install it with "
            "`pip install 'neuro[text]'`, or use data/tokenizer=byte."
        ) from error
