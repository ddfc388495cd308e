"""A corpus: sources of documents, a tokenizer and held-out fractions, tokenised as shards.

The shards are made on first use and named after all that shapes them. A run records the name, and
opens these shards again even if the sources have changed since then.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from neuro.config.classes import name_of
from neuro.data.base import Split
from neuro.data.made import digest
from neuro.data.tokens.making import make_shards
from neuro.data.tokens.shards import Shards
from neuro.data.tokens.sources import DocumentSource
from neuro.data.tokens.tokenizers import Tokenizer
from neuro.errors import ConfigError, DataError

#: the task of all domains
MIXTURE = "all"

RECIPE = 1  #: part of every digest; to be raised when equal settings give other tokens than before

#: keys of settings that have other names in the config
_KEYS = {"fractions.val": "val_fraction", "fractions.test": "test_fraction"}


class Corpus:
    """Tokenised documents of some sources.

    - `fractions`: of the documents of each domain that are held out, by split
    - `name`: folder of existing shards below `root`; None: that of the sources as they are
    - `tokenizer_hash`: of the tokenizer that a model has learned with; another one is refused
    """

    def __init__(
        self,
        sources: Mapping[str, DocumentSource],
        tokenizer: Tokenizer,
        fractions: Mapping[Split, float],
        seed: int,
        root: Path,
        name: str | None = None,
        tokenizer_hash: str | None = None,
    ):
        self.sources = dict(sources)
        self.tokenizer = tokenizer
        self.fractions = dict(fractions)
        self.seed = seed
        self.root = root
        self.name = name
        self.tokenizer_hash = tokenizer_hash

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """The domains of all sources. ConfigError if two have the same name."""
        found: list[str] = []
        for name, source in self.sources.items():
            try:
                domains = source.domains(name)
            except DataError as error:
                raise DataError(f"data.sources.{name}: {error}") from error
            for domain in domains:
                if domain in (*found, MIXTURE):
                    problem = "has the name of the mixture" if domain == MIXTURE else "occurs twice"
                    raise ConfigError(
                        f"data.sources.{name}: its domain '{domain}' {problem}. Give each domain a "
                        "name of its own."
                    )
                found.append(domain)
        return tuple(found)

    def settings(self) -> dict[str, Any]:
        """All that shapes the shards, except the content of the sources."""
        return {
            "recipe": RECIPE,
            "sources": {name: _described(source) for name, source in self.sources.items()},
            "tokenizer": _described(self.tokenizer),
            "fractions": self.fractions,
            "split_seed": self.seed,
        }

    @cached_property
    def shards(self) -> Shards:
        """The shards; made if they are missing or damaged. The tokenizer gets their state.

        DataError for sources or shards that cannot be used; ConfigError if the shards that `name`
        names were made with other settings, or with another tokenizer than `tokenizer_hash`.
        """
        shards = self._named() or self._current()
        if self.tokenizer_hash not in (None, shards.tokenizer_hash):
            raise ConfigError(
                f"data.tokenizer_hash: the tokenizer of this text ({shards.path.name}) gives its "
                "symbols another meaning than that of the run. Give data.tokenizer.file=<folder of "
                "the run's shards>, or for a new model data.tokenizer_hash=null."
            )
        self.tokenizer.load_state_dict(shards.tokenizer_state())
        return shards

    def _named(self) -> Shards | None:
        """The shards that the config names, if they are there and intact."""
        found = None if self.name is None else _opened(self.root / self.name)
        if found is not None:
            for key, value, made in _differences(self.settings(), found.manifest["settings"]):
                raise ConfigError(
                    f"data.{_KEYS.get(key, key)}: got {value}, but the shards {found.path.name} "
                    f"(data.shards) were made with {made}. Change it back, or make other shards "
                    "with data.shards=null."
                )
        return found

    def _current(self) -> Shards:
        """The shards of the sources as they are now, made unless they exist."""
        content = {name: source.fingerprint() for name, source in self.sources.items()}
        settings = self.settings()
        shaping = {**settings, "sources": _without_paths(settings["sources"]), "content": content}
        path = self.root / f"text-{digest(shaping)}"
        if self.name not in (None, path.name):
            raise DataError(
                f"data.shards: {self.root / str(self.name)} is missing or damaged, and cannot be "
                "made again: the sources have other files, versions of packages, or settings now. "
                "Restore it, or use the text as it is now with data.shards=null."
            )
        found = _opened(path)
        if found is None:
            make_shards(
                path,
                self.sources,
                self.domains,
                self.tokenizer,
                self.fractions,
                settings,
            )
            found = Shards(path)
        return found


def _opened(path: Path) -> Shards | None:
    """Existing shards; None, with a warning, if they are damaged."""
    if not path.is_dir():
        return None
    try:
        return Shards(path)
    except DataError as error:
        warnings.warn(f"Damaged tokens are made again. {error}", stacklevel=2)
        return None


def _described(component: DocumentSource | Tokenizer) -> dict[str, Any]:
    return {"_target_": name_of(type(component)), **component.settings()}


def _differences(
    own: Mapping[str, Any], made: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Key path and both values where nested settings differ."""
    for key in {**own, **made}:
        one, other = own.get(key), made.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differences(one, other, f"{path}{key}.")
        elif one != other:
            yield f"{path}{key}", one, other


def _without_paths(sources: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of sources without the places of files: moved files have the same shards."""
    return {
        name: {key: value for key, value in source.items() if key != "path"}
        for name, source in sources.items()
    }
