"""Tokenised text on disk: memory-mapped shards with a manifest, written once and atomically.

    <root>/text-<digest>/
    ├── manifest.json          settings, sources with versions, tokenizer, counts, bytes, hashes
    ├── tokenizer.json         the tokenizer's state
    ├── 00-train-000.npy       tokens of domain 0: documents one after the other, each with its end
    ├── 00-train.npy           lengths of these documents in tokens, their ends included
    └── 00-val-000.npy ...

A shard holds whole documents. The digest depends on the settings and on the fingerprints of the
sources, so that another text or tokenizer has other shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from neuro.data.made import STALE_SECONDS
from neuro.data.store import SPLIT_NAMES, Array
from neuro.errors import DataError
from neuro.io.files import full_message, is_disk_full

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
VERSION = 1
SHARD_TOKENS = 1 << 26  #: tokens of a shard, unless a single document has more
#: shards up to this size are compared with their hashes when they are opened
VERIFIED_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents of a split: where their tokens are, without reading them.

    - `shards`: memory-mapped tokens `[...]`
    - `shard`, `start`, `length` `[N]`: place of each document, its end included
    """

    shards: tuple[Array, ...]
    shard: Array
    start: Array
    length: Array

    def __len__(self) -> int:
        return len(self.length)

    @property
    def tokens(self) -> int:
        return int(self.length.sum())

    def read(self, number: int, start: int, stop: int) -> Array:
        """Tokens `start` to before `stop` of a document, as a view of the shard."""
        first = int(self.start[number])
        return self.shards[self.shard[number]][first + start : first + stop]

    def select(self, chosen: Array) -> Documents:
        """Some of the documents, by their positions."""
        return Documents(self.shards, self.shard[chosen], self.start[chosen], self.length[chosen])

    def cut(self, tokens: int) -> Documents:
        """The first `tokens` of each document; a longer one is left without its end."""
        return Documents(self.shards, self.shard, self.start, np.minimum(self.length, tokens))


def joined(parts: Sequence[Documents]) -> Documents:
    """The documents of several domains as one collection."""
    firsts = np.cumsum([0, *(len(part.shards) for part in parts[:-1])])
    return Documents(
        tuple(shard for part in parts for shard in part.shards),
        np.concatenate([part.shard + first for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([part.start for part in parts]),
        np.concatenate([part.length for part in parts]),
    )


class Count(NamedTuple):
    """The size of a split of a domain; `tokens` include the ends of documents."""

    documents: int
    tokens: int
    bytes: int

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of a token, without the ends of documents."""
        return self.bytes / max(1, self.tokens - self.documents)


class Shards:
    """Opened shards. DataError if they are missing, incomplete or damaged."""

    def __init__(self, path: Path, *, verify: bool = False):
        self.path = path
        self.manifest = read_json(path / MANIFEST)
        if self.manifest.get("version") != VERSION:
            raise DataError(
                f"{path}: has version {self.manifest.get('version')!r} of the manifest; this "
                f"program reads {VERSION}. Remove the folder, so that it is made again."
            )
        self.domains: tuple[str, ...] = tuple(self.manifest["domains"])
        sizes = {name: entry["size"] for name, entry in self.manifest["files"].items()}
        for name, size in sizes.items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise DataError(f"{file}: is missing or has not the {size} bytes of {MANIFEST}.")
        if verify or sum(sizes.values()) <= VERIFIED_BYTES:
            self.verify()

    def verify(self) -> None:
        """Compare all files with the hashes of the manifest. DataError for a damaged one."""
        for name, entry in self.manifest["files"].items():
            if file_hash(self.path / name) != entry["sha256"]:
                raise DataError(
                    f"{self.path / name}: is damaged; its hash is not that of {MANIFEST}."
                )

    @property
    def tokenizer_hash(self) -> str:
        """A hash of the tokenizer and its state."""
        found = [
            self.manifest["tokenizer"]["_target_"],
            self.manifest["files"][TOKENIZER]["sha256"],
        ]
        return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]

    def tokenizer_state(self) -> dict[str, Any]:
        return read_json(self.path / TOKENIZER)

    def count(self, domain: str, split: str) -> Count:
        entry = self.manifest["counts"][domain][split]
        return Count(entry["documents"], entry["tokens"], entry["bytes"])

    def documents(self, domain: str, split: str) -> Documents:
        """The documents of a domain's split; their tokens are mapped, not read."""
        prefix = f"{self.domains.index(domain):02d}-{split}"
        length: Array = np.load(self.path / f"{prefix}.npy")
        files = sorted(name for name in self.manifest["files"] if name.startswith(f"{prefix}-"))
        shards = tuple(np.load(self.path / name, mmap_mode="r") for name in files)
        ends = np.cumsum(length)
        bounds = np.cumsum([0, *map(len, shards)])
        starts = ends - length
        shard = np.searchsorted(bounds, starts, side="right") - 1
        return Documents(shards, shard, starts - bounds[shard], length)


class Writer:
    """Writes the files of shards into a folder, document by document."""

    def __init__(self, folder: Path, domains: Sequence[str], dtype: np.dtype[Any]):
        self.folder = folder
        self.domains = tuple(domains)
        self.dtype = dtype
        self._lengths: dict[tuple[str, str], list[int]] = {}
        self._bytes: dict[tuple[str, str], int] = {}
        self._open: dict[tuple[str, str], list[Array]] = {}
        self._held: dict[tuple[str, str], int] = {}
        self._files: dict[tuple[str, str], int] = {}
        for key in ((domain, split) for domain in domains for split in SPLIT_NAMES):
            self._lengths[key], self._open[key] = [], []
            self._bytes[key] = self._held[key] = self._files[key] = 0

    def add(self, domain: str, split: str, tokens: Array, size: int) -> None:
        """Add a document, its end included; `size`: bytes of its text."""
        key = (domain, split)
        if self._held[key] and self._held[key] + len(tokens) > SHARD_TOKENS:
            self._flush(key)
        self._open[key].append(tokens.astype(self.dtype))
        self._held[key] += len(tokens)
        self._lengths[key].append(len(tokens))
        self._bytes[key] += size

    def finish(self, manifest: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> None:
        """Write what is left, and the manifest with counts and hashes."""
        for key in self._lengths:
            if self._held[key] or not self._files[key]:
                self._flush(key)
            np.save(
                self.folder / f"{self._prefix(key)}.npy", np.array(self._lengths[key], np.int64)
            )
        (self.folder / TOKENIZER).write_text(json.dumps(tokenizer, ensure_ascii=False))
        counts = {
            domain: {
                split: Count(
                    len(self._lengths[domain, split]),
                    sum(self._lengths[domain, split]),
                    self._bytes[domain, split],
                )._asdict()
                for split in SPLIT_NAMES
            }
            for domain in self.domains
        }
        files = {
            file.name: {"size": file.stat().st_size, "sha256": file_hash(file)}
            for file in sorted(self.folder.iterdir())
        }
        content = {
            "version": VERSION,
            **manifest,
            "domains": self.domains,
            "dtype": self.dtype.name,
            "counts": counts,
            "files": files,
        }
        (self.folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n")

    def _prefix(self, key: tuple[str, str]) -> str:
        return f"{self.domains.index(key[0]):02d}-{key[1]}"

    def _flush(self, key: tuple[str, str]) -> None:
        tokens = np.concatenate(self._open[key]) if self._open[key] else np.zeros(0, self.dtype)
        np.save(self.folder / f"{self._prefix(key)}-{self._files[key]:03d}.npy", tokens)
        self._files[key] += 1
        self._open[key], self._held[key] = [], 0


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to write to, which replaces `path` if the block raises no error.

    DataError if the disk is full or the folder cannot be written; `path` then stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        if path.exists():  # a damaged one, or another process was faster
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)  # what it took counts as free in the message
        if is_disk_full(error):
            raise DataError(
                f"{full_message(path, None)} Make room, or choose another folder (data.root)."
            ) from error
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}). Choose another folder "
            "(data.root)."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. DataError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise DataError(f"{path}: is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: is damaged; expected an object.")
    return content
