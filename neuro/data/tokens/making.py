"""Make shards of documents: read, divide into splits, train the tokenizer, tokenise, write.

Documents are read once and kept in a temporary file meanwhile, since the splits must be known
before the tokenizer is trained, and the tokenizer before anything is tokenised: held-out documents
must not shape it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from neuro.config.classes import name_of
from neuro.data.base import SPLITS, Split
from neuro.data.tokens.shards import Writer, replacing_folder
from neuro.data.tokens.sources import DocumentSource
from neuro.data.tokens.tokenizers import Tokenizer
from neuro.errors import DataError
from neuro.runtime.progress import progress_bar

_TOGETHER = 256  #: documents that are tokenised together


@dataclass
class _Spool:
    """Documents in a temporary file, with their domain, group, place, and hash."""

    file: BinaryIO
    domains: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])
    hashes: list[bytes] = field(default_factory=list)

    def read(self, number: int) -> str:
        start, end = self.ends[number], self.ends[number + 1]
        self.file.seek(start)
        return self.file.read(end - start).decode()


def make_shards(
    path: Path,
    sources: Mapping[str, DocumentSource],
    domains: Sequence[str],
    tokenizer: Tokenizer,
    fractions: Mapping[Split, float],
    settings: Mapping[str, Any],
) -> None:
    """Write the shards of some sources as the folder `path`.

    DataError for documents that cannot be read, or are too few to be divided.
    """
    with replacing_folder(path) as folder:
        spooled = folder / "documents"
        with spooled.open("w+b") as file:
            spool = _Spool(file)
            characters = _fill(spool, sources, domains, settings["split_seed"])
            splits = _divide(spool, domains, fractions)
            training = [n for n, split in enumerate(splits) if split == "train"]
            tokenizer.train((spool.read(n) for n in training), characters)
            last = tokenizer.vocabulary - 1
            writer = Writer(folder, domains, np.min_scalar_type(last))
            with progress_bar("Tokenising", "documents") as report:
                for first, texts in _batches(spool):
                    for i, tokens in enumerate(tokenizer.encode_all(texts)):
                        number = first + i
                        size = spool.ends[number + 1] - spool.ends[number]
                        writer.add(
                            domains[spool.domains[number]],
                            splits[number],
                            np.append(tokens, tokenizer.document_end),
                            size,
                        )
                    report(first + len(texts), len(splits))
        spooled.unlink()
        manifest = {
            "settings": settings,
            "sources": {
                name: {"_target_": name_of(type(source)), "versions": source.versions()}
                for name, source in sources.items()
            },
            "tokenizer": {
                "_target_": name_of(type(tokenizer)),
                "vocabulary": tokenizer.vocabulary,
                "document_end": tokenizer.document_end,
            },
        }
        writer.finish(manifest, tokenizer.state_dict())


def _fill(
    spool: _Spool, sources: Mapping[str, DocumentSource], domains: Sequence[str], seed: int
) -> set[str]:
    """Write all documents to the spool, equal ones once; returns the characters that occur."""
    numbers = {domain: number for number, domain in enumerate(domains)}
    characters: set[str] = set()
    found: set[bytes] = set()
    groups: dict[tuple[str, str], int] = {}
    for name, source in sources.items():
        with progress_bar(f"Reading {name}", "files") as report:
            for document in source.documents(name, report):
                content = document.text.encode()
                key = hashlib.blake2b(content, digest_size=16, salt=str(seed).encode()[:16])
                if key.digest() in found:
                    continue
                found.add(key.digest())
                characters.update(document.text)
                spool.file.write(content)
                spool.domains.append(numbers[document.domain])
                own = (name, document.group or f"{len(spool.hashes)}")
                spool.groups.append(groups.setdefault(own, len(groups)))
                spool.ends.append(spool.ends[-1] + len(content))
                spool.hashes.append(key.digest())
    return characters


def _divide(spool: _Spool, domains: Sequence[str], fractions: Mapping[Split, float]) -> list[Split]:
    """The split of each document: the groups with the smallest hashes are held out."""
    splits: list[Split] = ["train"] * len(spool.hashes)
    members: list[dict[int, list[int]]] = [{} for _ in domains]  # documents by group, by domain
    for document, (number, group) in enumerate(zip(spool.domains, spool.groups, strict=True)):
        members[number].setdefault(group, []).append(document)
    for domain, groups in zip(domains, members, strict=True):
        if len(groups) < len(SPLITS):
            raise DataError(
                f"data: domain '{domain}' has {len(groups)} different documents; at least "
                f"{len(SPLITS)} are needed for train, val and test. Give more text, or shorter "
                "documents (data.sources.<name>.document of text files)."
            )
        total = sum(map(len, groups.values()))
        order = sorted(groups.values(), key=lambda own: min(spool.hashes[n] for n in own))
        left = order[::-1]
        for split, fraction in fractions.items():
            wanted = max(1, round(fraction * total))
            while wanted > 0 and left:
                held_out = left.pop()
                wanted -= len(held_out)
                for document in held_out:
                    splits[document] = split
        if not left:
            raise DataError(
                f"data: domain '{domain}' has no documents left to train on; give more text, or "
                "smaller data.val_fraction and data.test_fraction."
            )
    return splits


def _batches(spool: _Spool) -> Iterator[tuple[int, list[str]]]:
    """The texts in groups, with the number of the first one."""
    for first in range(0, len(spool.hashes), _TOGETHER):
        last = min(first + _TOGETHER, len(spool.hashes))
        yield first, [spool.read(number) for number in range(first, last)]
