"""Paths in a config: expansion of `~`, and absolute paths for files of data and models.

With absolute paths a run can be evaluated and resumed from another directory.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from neuro.config import commands

#: keys of files that a run needs again; `*` stands for any name
_ABSOLUTE = (
    "data.path", "data.train_path", "data.val_path", "data.test_path", "data.tasks.*.path",
    "data.tasks.*.train", "data.tasks.*.val", "data.tasks.*.test", "data.images.path",
    "data.sources.*.path", "data.tokenizer.file", "model.architecture", "teacher",
)  # fmt: skip

#: other path keys, which are relative to the directory where a command is started
_RELATIVE = ("data.root", "runs_dir", "run", "resume", "init_from", "checkpoint")

#: a path below the home directory where Hydra's grammar has a value: after =, in a list or mapping
_HOME = re.compile(r"(?<=[=\[,{:\s])~(?:/[^\[\]{},'\"]*)?(?=[\]},\s]|$)")


def with_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config as plain containers, with `~` and relative paths of data replaced."""
    values: dict[str, Any] = _copied(config)
    for pattern in (*_ABSOLUTE, *_RELATIVE):
        *parents, key = pattern.split(".")
        for node in _nodes(values, parents):
            given = node.get(key)
            found = [expanded(v, pattern in _ABSOLUTE) for v in _listed(given)]
            if found:
                node[key] = found if isinstance(given, list) else found[0]
    return values


def expanded(path: str, absolute: bool = False) -> str:
    """A path with the home directory in place of `~`."""
    path = os.path.expanduser(path)
    return os.path.abspath(path) if absolute and path else path


def with_quoted_home(argument: str) -> str:
    """A command line argument in which Hydra accepts paths such as ~/data.

    Hydra's grammar has no unquoted `~` in values. Its own keys, whose paths it uses before a config
    is parsed, get the home directory itself.
    """
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    own = key.startswith("hydra.")

    def quoted(match: re.Match[str]) -> str:
        return commands.text(expanded(match[0]) if own else match[0])

    return f"{key}{_HOME.sub(quoted, equals + value)}"


def _listed(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return values if all(isinstance(v, str) for v in values) else []


def _nodes(node: Any, path: list[str]) -> Iterator[dict[str, Any]]:
    """The mappings at a path of keys, of which `*` is any."""
    if not isinstance(node, dict):
        return
    if not path:
        yield node
        return
    head, *rest = path
    for key in list(node) if head == "*" else [head]:
        yield from _nodes(node.get(key), rest)


def _copied(node: Any) -> Any:
    """A copy of nested mappings; other values are shared."""
    return {k: _copied(v) for k, v in node.items()} if isinstance(node, Mapping) else node
