"""Small texts, and the content of streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neuro.data.base import Loader
from neuro.data.tokens.text import Text
from neuro.data.tokens.tokenizers import ByteTokenizer

END = 256


def write_texts(folder: Path, count: int = 20, domains: str = "ab") -> Path:
    """Write documents of different lengths in subfolders, which are domains."""
    for domain in domains:
        (folder / domain).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            text = f"{domain}{number}:" + "".join(
                chr(97 + (7 * number + k * k) % 26) for k in range(20 + 13 * number % 50)
            )
            (folder / domain / f"{number:02d}.txt").write_text(text)
    return folder


def text(corpus: Path, /, **changed: Any) -> Text:
    """A byte-level text source on some files, with its shards in a folder beside them."""
    options = {"sources": {}, "tokenizer": ByteTokenizer(), "path": str(corpus)}
    return Text(**{**options, "root": str(corpus.parent / "cache"), **changed})


def texts_of(source: Text, task: str, split: Any) -> list[str]:
    """The texts of the documents of a task's split."""
    documents = source.documents(task, split)
    found = []
    for number, length in enumerate(documents.length.tolist()):
        tokens = documents.read(number, 0, length).tolist()
        assert tokens[-1] == source.tokenizer.document_end
        found.append(source.tokenizer.decode(tokens))
    return found


def streams_of(loader: Loader, epochs: int = 1) -> tuple[Tensor, Tensor]:
    """Inputs and targets of all batches of some epochs, `[streams, steps]`."""
    batches = [batch for epoch in range(epochs) for batch in loader.batches(epoch)]
    return torch.cat([b.inputs for b in batches], 1), torch.cat([b.targets for b in batches], 1)


def split_at_ends(tokens: Tensor, end: int = END) -> list[bytes]:
    """The documents of a stream of bytes; the last one may be incomplete."""
    documents, current = [], bytearray()
    for token in tokens.tolist():
        if token == end:
            documents.append(bytes(current))
            current = bytearray()
        elif token >= 0:
            current.append(token)
    return documents
