"""The typed root of a config: contents, changes, and construction of the data once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

import launch
from neuro.config.trainer import Interval, TrainerSettings
from neuro.data.images.temporal import TemporalImages
from neuro.errors import ConfigError
from neuro.experiment.assembly import assemble
from neuro.experiment.context import RunContext, read_experiment
from neuro.experiment.experiment import Experiment, parse_experiment
from neuro.hardware.host import Host
from neuro.training.optimizers import AdamW, OptimizerFactory

OVERRIDES = (
    "model.channels=[4,4,8]", "model.dense_units=16", "data.limit_train=20", "data.limit_val=10",
    "data.limit_test=10", "data.split_seed=${seed}", "rule=surrogate", "model.readout=linear",
    "model.neuron.gate.kind=learned",
    "+phase.task2.optimizer.lr=0.5", "callbacks=[]", "tracking=[]",
)  # fmt: skip


@contextmanager
def composed_from(*overrides: str) -> Iterator[DictConfig]:
    """A config as the launcher composes it, with interpolations, while its job runs."""
    with hydra.initialize_config_dir(str(launch.CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        cfg.pop("hydra")
    yield cfg
    HydraConfig.instance().cfg = None


@pytest.fixture
def composed() -> Iterator[DictConfig]:
    with composed_from(*OVERRIDES) as cfg:
        yield cfg


@pytest.fixture
def experiment(composed: DictConfig) -> Experiment:
    return parse_experiment(composed)


def test_everything_is_typed(experiment: Experiment) -> None:
    assert (experiment.mode, experiment.seed, experiment.tags) == ("train", 0, ())
    assert isinstance(experiment.trainer, TrainerSettings)
    assert experiment.trainer.log == Interval(steps=10)
    assert (experiment.hardware.device, experiment.hardware.compile_) == ("auto", False)
    assert (experiment.target.cls, experiment.data.cls) == (Host, TemporalImages)
    assert experiment.data.arguments["limit_train"] == 20
    assert experiment.tasks == ("fast", "slow")
    assert experiment.callbacks == experiment.tracking == {}
    assert list(experiment.loss) == ["cross_entropy"]
    one, two = (phase.optimizer for phase in experiment.phase.values())
    assert (one.path, two.path) == ("optimizer", "phase.task2.optimizer")
    made: list[OptimizerFactory] = [one.build(), two.build()]
    assert [type(optimizer) for optimizer in made] == [AdamW, AdamW]
    assert [optimizer.lr for optimizer in made] == [0.001, 0.5]


def test_a_change_gives_a_new_experiment_with_updated_dependent_values(
    experiment: Experiment,
) -> None:
    other = experiment.changed({"seed": 3, "data.limit_test": 5})
    assert (other.seed, experiment.seed) == (3, 0)
    assert (other.data.arguments["split_seed"], experiment.data.arguments["split_seed"]) == (3, 0)
    assert (other.plain()["data"]["limit_test"], other.data.arguments["limit_test"]) == (5, 5)
    assert experiment.plain()["data"]["limit_test"] == 10
    with pytest.raises(ConfigError, match="seed: got -1"):
        experiment.changed({"seed": -1})


def test_plain_content_is_a_copy(experiment: Experiment, composed: DictConfig) -> None:
    content = experiment.plain()
    assert list(content) == [str(key) for key in composed]
    content["data"]["limit_test"] = 99
    assert experiment.plain()["data"]["limit_test"] == 10
    with pytest.raises(AttributeError):
        experiment.seed = 1  # type: ignore[misc]


def test_an_experiment_can_be_sent_to_other_processes(experiment: Experiment) -> None:
    """Without the interpolations of a job, which only the process of the job can resolve."""
    sent = pickle.dumps(experiment)
    HydraConfig.instance().cfg = None
    there = pickle.loads(sent)
    assert there.plain() == experiment.plain()
    assert "instance" not in vars(there.data)
    assert list(there.phase) == ["task1", "task2"]


def test_the_data_is_constructed_once(
    composed: DictConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    construct = TemporalImages.__init__

    def counted(self: TemporalImages, *args: object, **kwargs: object) -> None:
        made.append(self)
        construct(self, *args, **kwargs)  # type: ignore[arg-type]

    counted.__annotations__ = construct.__annotations__
    counted.__wrapped__ = construct  # type: ignore[attr-defined]
    monkeypatch.setattr(TemporalImages, "__init__", counted)
    parts = assemble(parse_experiment(composed))
    assert made == [parts.data]


def test_default_callbacks_fit_any_model(composed: DictConfig) -> None:
    """Pixels have no spikes to calibrate, and no weights to bound."""
    composed.model = {"_target_": "neuro.models.pixels.Pixels", "readout": "linear"}
    with hydra.initialize_config_dir(str(launch.CONF), version_base="1.3"):
        composed.callbacks = hydra.compose("config").callbacks
    parts = assemble(parse_experiment(composed))
    assert list(parts.callbacks) == ["weight_bounds", "diagnostics", "progress", "plots"]
    assert parts.notes[0] == (
        "callbacks.calibration: ThresholdCalibration needs a Spiking model, which Pixels is not. "
        "It is left out."
    )


def test_groups_are_mappings(composed: DictConfig) -> None:
    with open_dict(composed):
        composed.pop("trainer")
        composed.model = None
    with pytest.raises(ConfigError) as caught:
        parse_experiment(composed)
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "model: got null",
        "trainer: got null",
    ]


def test_settings_of_callbacks_that_are_not_selected_are_left_out(tmp_path: Path) -> None:
    preset = ("experiment=max_accuracy", "callbacks=[progress,ema]")
    with composed_from(*preset) as cfg:
        assert "early_stopping" in cfg.callbacks
        found = read_experiment(RunContext(cfg, tmp_path, preset))
    assert set(found.callbacks) == {"progress", "ema"}
    given = (*preset, "callbacks.early_stopping.warmup_epochs=3")
    with composed_from(*given) as cfg, pytest.raises(ConfigError, match="early_stopping"):
        read_experiment(RunContext(cfg, tmp_path, given))
