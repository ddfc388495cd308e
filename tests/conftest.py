"""Cache Hydra's compositions per session by their options: hundreds, of 0.2 s each.

Compositions with --config-dir, from copies of conf/ or in other processes are not cached.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_search_path import ConfigSearchPath

import launch
from neuro.search.composing import CachingLoader, compose_quickly


@pytest.fixture(scope="session", autouse=True)
def _kept_compositions() -> Iterator[None]:
    kept: dict[str, dict[Any, Any]] = defaultdict(dict)
    initialise = CachingLoader.__init__

    def shared(self: CachingLoader, config_search_path: ConfigSearchPath) -> None:
        initialise(self, config_search_path)
        shipped = all(
            source.provider in ("hydra", "schema") or Path(source.path) == launch.CONF
            for source in self.repository.get_sources()
        )
        if shipped:
            self.merged = kept[str(config_search_path)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CachingLoader, "__init__", shared)
        compose_quickly()
        yield
