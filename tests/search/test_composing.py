"""The caching loader composes what Hydra's own loader composes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from neuro.search.composing import CachingLoader
from tests.e2e.helpers import ROOT


class Loaders:
    """Hydra's loader, the caching one, and the config of a sweep."""

    def __init__(self) -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            hydra = GlobalHydra.instance().config_loader()
            self.hydra = ConfigLoaderImpl(hydra.get_search_path())
            self.caching = CachingLoader(hydra.get_search_path())
            overrides = ["hydra/sweeper=neuro", "hydra.sweep.dir=x", "seed=7"]
            self.master = self.hydra.load_configuration("config", overrides, RunMode.MULTIRUN)

    def empty(self) -> CachingLoader:
        """A caching loader with an empty cache."""
        loader = CachingLoader(self.caching.get_search_path())
        loader.merged = {}
        return loader


@pytest.fixture(scope="module")
def loaders() -> Loaders:
    return Loaders()


def plain(config: DictConfig) -> object:
    return OmegaConf.to_container(config, resolve=False)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer.lr=0.02", "seed=3", "hydra.sweep.subdir='4'", "hydra.job.env_set.NEURO_X=a"),
        ("model=lif", "optimizer.lr=0.01"),
        ("optimizer.lr=0.01", "model=ltgate", "phase=task1", "phase.task1.epochs=2"),
        ("~callbacks.plots", "callbacks.progress.refresh_s=2", "+extra=1", "name=a"),
        ("callbacks=[progress]", "++model.channels=[4,8]", "optimizer={lr: 0.5}"),
        ("callbacks=[progress]", "hydra.searchpath=[]", "optimizer.lr=0.3"),
    ],
)
def test_as_composed_by_hydra(overrides: tuple[str, ...], loaders: Loaders) -> None:
    try:
        expected = loaders.hydra.load_sweep_config(loaders.master, list(overrides))
    except HydraException as error:
        with pytest.raises(type(error)):
            loaders.caching.load_sweep_config(loaders.master, list(overrides))
        return
    for _ in range(2):  # also from the cache, which the first call must not change
        found = loaders.caching.load_sweep_config(loaders.master, list(overrides))
        assert plain(found) == plain(expected)
        assert OmegaConf.is_struct(found)
        found.seed = 100


def test_an_option_may_be_named_by_another_choice(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults: [size: small, speed: '${size}']\n")
    for group in ("size", "speed"):
        (tmp_path / group).mkdir()
        for option in ("small", "large"):
            (tmp_path / group / f"{option}.yaml").write_text(f"is: {option}\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        loader = CachingLoader(GlobalHydra.instance().config_loader().get_search_path())
        config = loader.load_configuration("config", ["size=large"], RunMode.RUN)
    assert plain(config.speed) == {"is": "large"}


@pytest.mark.parametrize("override", ["optimizer.rate=1", "model=nothing", "seed=1,2"])
def test_errors_are_those_of_hydra(override: str, loaders: Loaders) -> None:
    with pytest.raises(HydraException) as expected:
        loaders.hydra.load_sweep_config(loaders.master, [override])
    with pytest.raises(HydraException) as found:
        loaders.caching.load_sweep_config(loaders.master, [override])
    assert str(found.value) == str(expected.value)


def test_files_are_merged_once_for_jobs_of_the_same_options(loaders: Loaders) -> None:
    caching = loaders.empty()
    for lr in ("0.1", "0.2"):
        for model in ("lif", "ltgate"):
            caching.load_sweep_config(loaders.master, [f"optimizer.lr={lr}", f"model={model}"])
    merged = [[o for o in options if o.startswith("model")] for _, _, options in caching.merged]
    assert merged == [["model=lif"], ["model=ltgate"]]


def test_a_run_uses_what_was_merged_to_read_its_mode(loaders: Loaders) -> None:
    caching = loaders.empty()
    overrides = ["model=lif", "seed=1,2"]
    caching.load_configuration("config", overrides, RunMode.MULTIRUN)
    assert len(caching.merged) == 1
    overrides = ["model=lif", "seed=1", "hydra.job.env_copy=[HOME]"]
    found = caching.load_configuration("config", overrides, RunMode.RUN)
    assert len(caching.merged) == 1
    assert plain(found) == plain(loaders.hydra.load_configuration("config", overrides, RunMode.RUN))


def test_a_missing_option_is_an_error_of_a_run_alone(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "a.yaml").write_text("x: 1\n")
    (tmp_path / "config.yaml").write_text("defaults: [{part: '???'}, _self_]\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        caching = CachingLoader(GlobalHydra.instance().config_loader().get_search_path())
    for _ in range(2):
        caching.load_configuration("config", [], RunMode.MULTIRUN)
        with pytest.raises(HydraException, match="You must specify 'part'"):
            caching.load_configuration("config", [], RunMode.RUN)
    assert caching.load_configuration("config", ["part=a"], RunMode.RUN).part.x == 1


def test_launchers_send_the_loader_to_their_workers(loaders: Loaders) -> None:
    overrides = ["optimizer.lr=0.02"]
    sent = pickle.loads(pickle.dumps(loaders.caching))
    found = sent.load_sweep_config(loaders.master, overrides)
    assert plain(found) == plain(loaders.caching.load_sweep_config(loaders.master, list(overrides)))
