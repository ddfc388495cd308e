"""The command in best.yaml composes exactly the config of the trial."""

from __future__ import annotations

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from neuro.search.rerun import rerun_overrides
from neuro.search.space import parse_space
from tests.test_conf import CONF, compose


@pytest.mark.parametrize(
    ("sweep", "given"),
    [
        ("loihi2", "seed=7"),
        ("ltgate_gate", "data.batch_size=8"),
        ("pixels", "seed=7"),
        ("ltgate", "~callbacks.pruning"),  # the callback exists only with the sweep file
        ("ltgate", "callbacks.pruning.startup_trials=8"),
    ],
)
def test_the_command_composes_the_trial(sweep: str, given: str) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        master = hydra.compose(
            "config", overrides=[f"sweep={sweep}", given], return_hydra_config=True
        )
        settings = OmegaConf.to_container(master.hydra.sweeper)
        assert isinstance(settings, dict)
        fixed = [f"sweep={sweep}", given]
        space = parse_space(settings["params"], settings["conditional"], fixed)
        *_, values = space.covering_values()
        loader = GlobalHydra.instance().config_loader()
        overrides = rerun_overrides(space, values, master, loader)
    trial = compose(*fixed, *(f"{name}={value}" for name, value in values.items()))
    again = compose(*overrides)
    assert not any(override.startswith("sweep=") for override in overrides)
    assert again["callbacks"].get("pruning") is None  # pruning needs other trials
    for config in (trial, again):
        for group in ("callbacks", "tracking"):
            config[group] = {k: v for k, v in config[group].items() if v and k != "pruning"}
    assert again == trial
