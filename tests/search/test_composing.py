"""Configs of trials are those that Hydra's own loader composes."""

from __future__ import annotations

import pickle

import pytest
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from neuro.search.composing import TrialLoader
from tests.e2e.helpers import ROOT


class Loaders:
    """Hydra's loader, that of trials, and the config of a sweep."""

    def __init__(self) -> None:
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            hydra = GlobalHydra.instance().config_loader()
            self.hydra = ConfigLoaderImpl(hydra.get_search_path())
            self.trials = TrialLoader(hydra.get_search_path())
            overrides = ["hydra/sweeper=neuro", "hydra.sweep.dir=x", "seed=7"]
            self.master = self.hydra.load_configuration("config", overrides, RunMode.MULTIRUN)


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
            loaders.trials.load_sweep_config(loaders.master, overrides)
        return
    for _ in range(2):  # also from what is kept, which the first call must not have changed
        found = loaders.trials.load_sweep_config(loaders.master, overrides)
        assert plain(found) == plain(expected)
        assert OmegaConf.is_struct(found)
        found.seed = 100


@pytest.mark.parametrize("override", ["optimizer.rate=1", "model=nothing", "seed=1,2"])
def test_what_hydra_refuses_is_refused(override: str, loaders: Loaders) -> None:
    with pytest.raises(HydraException) as expected:
        loaders.hydra.load_sweep_config(loaders.master, [override])
    with pytest.raises(HydraException) as found:
        loaders.trials.load_sweep_config(loaders.master, [override])
    assert str(found.value) == str(expected.value)


def test_files_are_merged_once_for_trials_of_the_same_options(
    loaders: Loaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = TrialLoader(loaders.trials.get_search_path())
    merged = []
    load = trials.load_configuration

    def counted(name: str, overrides: list[str], mode: RunMode) -> DictConfig:
        merged.append(overrides)
        return load(name, overrides, mode)

    monkeypatch.setattr(trials, "load_configuration", counted)
    for lr in ("0.1", "0.2"):
        for model in ("lif", "ltgate"):
            trials.load_sweep_config(loaders.master, [f"optimizer.lr={lr}", f"model={model}"])
    options = [[o for o in overrides if o.startswith("model")] for overrides in merged]
    assert options == [["model=lif"], ["model=ltgate"]]


def test_launchers_send_the_loader_to_their_workers(loaders: Loaders) -> None:
    overrides = ["optimizer.lr=0.02"]
    sent = pickle.loads(pickle.dumps(loaders.trials))
    found = sent.load_sweep_config(loaders.master, overrides)
    assert plain(found) == plain(loaders.trials.load_sweep_config(loaders.master, overrides))
