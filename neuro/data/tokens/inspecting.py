"""Describe shards of tokens: sources, sizes, compression, and the beginnings of documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from neuro.config import commands
from neuro.data.store import SPLIT_NAMES
from neuro.data.tokens.shards import Count, Shards
from neuro.data.tokens.tokenizers import Tokenizer

_SHOWN = 160  #: characters of a sample


def described(shards: Shards) -> Iterator[str]:
    """Lines with the sources, the tokenizer, and the size of each domain and split."""
    manifest = shards.manifest
    size = sum(entry["size"] for entry in manifest["files"].values())
    tokenizer = manifest["tokenizer"]
    yield f"{shards.path}: tokens ({manifest['dtype']}), {size / 1e6:.3g} MB"
    for name, source in manifest["sources"].items():
        versions = ", ".join(f"{key} {value}" for key, value in source["versions"].items())
        yield f"source {name}: {_class(source)}" + (f" ({versions})" if versions else "")
    yield f"tokenizer: {_class(tokenizer)}, {tokenizer['vocabulary']} symbols"
    for domain in shards.domains:
        yield f"{domain}:"
        for split in SPLIT_NAMES:
            yield f"  {split:5s} {_sizes(shards.count(domain, split))}"
    held_out = [shards.count(domain, "test") for domain in shards.domains]
    total = Count(*(sum(column) for column in zip(*held_out, strict=True)))
    yield f"compression of held-out text: {total.bytes_per_token:.3f} bytes per token"
    overrides = [commands.override("data.shards", shards.path.name)]
    yield f"use it:  data=text with the same settings, or {' '.join(overrides)}"


def samples(shards: Shards) -> Iterator[str]:
    """The beginning of a training document of each domain."""
    from neuro.config.build import build  # pydantic, which nothing else here needs

    settings = shards.manifest["settings"]["tokenizer"]
    tokenizer = build(settings, Tokenizer, "data.tokenizer")
    tokenizer.load_state_dict(shards.tokenizer_state())
    for domain in shards.domains:
        documents = shards.documents(domain, "train")
        stop = min(_SHOWN, int(documents.length[0]))
        yield f"{domain}: {tokenizer.decode(documents.read(0, 0, stop).tolist())!r}"


def _class(node: dict[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]


def _sizes(count: Count) -> str:
    return (
        f"{count.documents:8d} documents {count.tokens:12d} tokens {count.bytes / 1e6:10.3f} MB  "
        f"{count.bytes_per_token:.3f} bytes per token"
    )
