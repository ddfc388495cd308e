"""Hydra's compositions are kept by the options that they choose: 0.3 s each, of some hundred.

Overrides of values are applied to a copy, by Hydra. Directories of --config-dir, copies of conf/
and processes of their own are composed as ever.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra.core.default_element import ResultDefault
from omegaconf import DictConfig

import launch


@pytest.fixture(scope="session", autouse=True)
def _kept_compositions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            config_loader_impl,
            "create_defaults_list",
            _choosing_once(config_loader_impl.create_defaults_list),
        )
        name = "_compose_config_from_defaults_list"
        patch.setattr(ConfigLoaderImpl, name, _merging_once(getattr(ConfigLoaderImpl, name)))
        yield


def _is_shipped(repo: Any) -> bool:
    """Whether all configs that a repository reads are Hydra's own or in conf/."""
    return all(
        source.provider in ("hydra", "schema") or Path(source.path) == launch.CONF
        for source in repo.get_sources()
    )


def _choosing_once(create: Callable[..., DefaultsList]) -> Callable[..., DefaultsList]:
    """Hydra's list of the files of a config, made once for each choice of options."""
    kept: dict[str, DefaultsList] = {}

    @functools.wraps(create)
    def chosen(repo: Any, config_name: str, overrides_list: Sequence[Any], **options: Any) -> Any:
        arguments = {"repo": repo, "config_name": config_name, "overrides_list": overrides_list}
        if not _is_shipped(repo):
            return create(**arguments, **options)
        own = Overrides(repo=repo, overrides_list=list(overrides_list))
        groups = (own.override_choices, own.append_group_defaults, own.deletions)
        key = repr((config_name, *groups, options))
        if key not in kept:
            kept[key] = create(**arguments, **options)
        own.known_choices = dict(kept[key].overrides.known_choices)
        return DefaultsList(
            defaults=kept[key].defaults,
            defaults_tree=kept[key].defaults_tree,
            config_overrides=own.config_overrides,
            overrides=own,
        )

    return chosen


def _merging_once(merge: Callable[..., DictConfig]) -> Callable[..., DictConfig]:
    """The merged config of a list of files, made once and copied."""
    kept: dict[tuple[str, ...], DictConfig] = {}

    @functools.wraps(merge)
    def merged(self: ConfigLoaderImpl, defaults: Sequence[ResultDefault], repo: Any) -> DictConfig:
        if not _is_shipped(repo):
            return merge(self, defaults=defaults, repo=repo)
        key = tuple(map(repr, defaults))
        if key not in kept:
            kept[key] = merge(self, defaults=defaults, repo=repo)
        return copy.deepcopy(kept[key])

    return merged
