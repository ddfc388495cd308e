"""Hydra's config loader, which merges the config files once for each choice of groups' options.

Composing takes 0.2 s of processor time, mostly to find and merge the files of the chosen options.
Hydra does it twice for a run (it reads hydra.mode first) and once for every job of a sweep, whose
jobs mostly differ in single values. `CachingLoader` keeps what was merged and sets the values on a
copy. For each file, Hydra makes a mapping of all choices, for options that are named by another
choice (`model: ${data}`); here it is made for files with such options. Only this module depends on
how Hydra's loader works inside.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence

from hydra._internal import defaults_list as defaults_lists
from hydra._internal import hydra as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.defaults_list import Overrides
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import InputDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict


class CachingLoader(ConfigLoaderImpl):
    """Composes the same configs as Hydra's loader, and raises the same errors.

    Files that change afterwards have no effect on combinations of options that were loaded.
    """

    def __init__(self, config_search_path: ConfigSearchPath):
        super().__init__(config_search_path)
        self.merged: dict[tuple[str | None, RunMode, tuple[str, ...]], DictConfig] = {}

    def _load_configuration_impl(
        self,
        config_name: str | None,
        overrides: Sequence[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """The method that Hydra's `load_configuration` calls, with the same arguments."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        applied = [o for o in parsed if not o.is_sweep_override()]  # the sweeper reads the others
        values = [override for override in applied if self._is_value(override)]
        options = tuple(str(o.input_line) for o in applied if not self._is_value(o))
        config = copy.deepcopy(self._merge(config_name, run_mode, options))
        self._apply_overrides_to_config(values, config)
        hydra = config.hydra
        with open_dict(hydra):
            hydra.job.env_set.update({name: os.environ[name] for name in hydra.job.env_copy})
        own = [override for override in parsed if not override.is_hydra_override()]
        hydra.overrides.hydra = [o.input_line for o in parsed if o.is_hydra_override()]
        hydra.overrides.task = [override.input_line for override in own]
        form = hydra.job.config.override_dirname
        hydra.job.override_dirname = get_overrides_dirname(
            own, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
        )
        hydra.runtime.cwd = os.getcwd()
        return config

    def _merge(
        self, config_name: str | None, run_mode: RunMode, options: tuple[str, ...]
    ) -> DictConfig:
        """The config of a choice of options, kept; the caller must not change it."""
        for mode in (run_mode, RunMode.MULTIRUN):
            kept = self.merged.get((config_name, mode, options))
            # an option that is still missing is an error of a run, but not of a sweep
            if kept is not None and (
                mode is run_mode or not OmegaConf.missing_keys(kept.hydra.runtime.choices)
            ):
                return kept
        merged = super()._load_configuration_impl(
            config_name, list(options), run_mode, validate_sweep_overrides=False
        )
        self.merged[config_name, run_mode, options] = merged
        return merged

    def _is_value(self, override: Override) -> bool:
        """Whether Hydra applies an override after the files are merged."""
        if override.key_or_group == "hydra.searchpath":
            return False
        is_mapping = isinstance(override.value(), dict)
        return is_mapping or not self.repository.group_exists(override.key_or_group)


def compose_quickly() -> None:
    """Make `hydra.main` compose by `CachingLoader`; Hydra has no setting for it."""
    hydra_main.ConfigLoaderImpl = CachingLoader  # type: ignore[misc]
    defaults_lists._create_interpolation_map = _choices


_all_choices = defaults_lists._create_interpolation_map


def _choices(
    overrides: Overrides, defaults_list: list[InputDefault], self_added: bool
) -> DictConfig:
    """What the options of a file can be named by; empty if none is named by another choice."""
    if any(default.is_interpolation() for default in defaults_list):
        return _all_choices(overrides, defaults_list, self_added)
    return OmegaConf.create()
