"""Reads conf/ by libyaml: PyYAML's parser in Python takes a quarter of a composition's time.

A sweep or the tests compose hundreds of times, so that a file that has not changed is parsed once
per process.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.config_source import ConfigLoadError, ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader  # its resolvers and checks; there is no public name
from yaml import load
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

try:
    from yaml.cyaml import CParser
except ImportError:  # PyYAML without libyaml
    Loader = get_yaml_loader()
else:

    class Loader(CParser, get_yaml_loader()):
        """OmegaConf's loader with the parser of libyaml."""

        def __init__(self, stream: str):
            CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)


class YamlFiles(FileConfigSource):
    """A config directory, `yaml:///path`: as Hydra's `file:///path`, read faster."""

    @staticmethod
    def scheme() -> str:
        return "yaml"

    def load_config(self, config_path: str) -> ConfigResult:
        """A config file. ConfigLoadError if there is none, YAMLError if it is not valid."""
        path = Path(self.path, self._normalize_file_name(config_path)).resolve()
        if not path.exists():
            raise ConfigLoadError(f"Config not found : {path}")
        text, content = _parsed(path, path.stat().st_mtime_ns)
        return ConfigResult(
            config=OmegaConf.create(content),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=self._get_header_dict(text[:512]),
        )


class ReadQuickly(SearchPathPlugin):
    """Has `YamlFiles` read the directory that launch.py names."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for element in search_path.get_path():
            if element.provider == "main" and element.path and "://" not in element.path:
                element.path = f"{YamlFiles.scheme()}://{element.path}"


@functools.cache
def _parsed(path: Path, changed_ns: int) -> tuple[str, Any]:
    """Text and content of a file as of its last change; an empty file is an empty mapping."""
    text = path.read_text(encoding="utf-8")
    content = load(text, Loader=Loader)
    return text, {} if content is None else content
