"""Runs grouped into configurations, sorted, and found by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neuro.analysis.compare.comparison import Comparison
from neuro.analysis.compare.statistics import mean_ci
from neuro.errors import CheckpointError, ConfigError
from neuro.runs.record import RunRecord
from tests.analysis.helpers import compared, finish, gates
from tests.runs.test_record import make


@pytest.fixture
def study(tmp_path: Path) -> Comparison:
    return compared(gates(tmp_path))


def labels(comparison: Comparison) -> list[str]:
    return [configuration.label for configuration in comparison.configurations]


# -- grouping -------------------------------------------------------------------------------------


def test_runs_are_grouped_over_seeds_and_the_best_comes_first(study: Comparison) -> None:
    assert labels(study) == ["model.kind=variance", "model.kind=learned", "model.kind=fixed"]
    best = study.configurations[0]
    assert [run.record.seed for run in best.runs] == [0, 1, 2]
    assert best.interval("test/accuracy") == mean_ci([0.9, 0.95, 1.0])
    assert best.interval("test/other") is None
    assert study.differing == ("model.kind",)


def test_configurations_are_determined_by_configs_not_overrides(tmp_path: Path) -> None:
    """The same command after an edited YAML file; the same config by another command."""
    finish(tmp_path / "a", {"test/accuracy": 0.9}, seed=0)
    finish(tmp_path / "b", {"test/accuracy": 0.6}, seed=0, config={"optimizer.lr": 0.5})
    finish(tmp_path / "c", {"test/accuracy": 0.7}, "optimizer.lr=0.01", seed=1)
    found = compared(tmp_path)
    assert [len(configuration.runs) for configuration in found.configurations] == [2, 1]
    assert labels(found) == ["optimizer.lr=0.01", "optimizer.lr=0.5"]


def test_runs_whose_split_seed_follows_the_seed_are_one_configuration(tmp_path: Path) -> None:
    for seed in range(3):
        finish(
            tmp_path / str(seed),
            {"test/accuracy": 0.5},
            seed=seed,
            config={"data.split_seed": seed},
        )
    (configuration,) = compared(tmp_path).configurations
    assert configuration.seeds == ((0, 0), (1, 1), (2, 2))


def test_several_runs_of_a_seed_are_averaged(tmp_path: Path) -> None:
    for name, seed, accuracy in (("a", 0, 0.4), ("b", 0, 0.6), ("c", 1, 0.7)):
        finish(tmp_path / name, {"test/accuracy": accuracy}, seed=seed)
    found = compared(tmp_path)
    (configuration,) = found.configurations
    assert configuration.by_seed("test/accuracy") == {(0,): pytest.approx(0.5), (1,): 0.7}
    assert configuration.interval("test/accuracy") == mean_ci([0.5, 0.7])
    assert "1 seed(s) with several runs" in found.notes[0]


def test_non_finite_values_are_missing(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.5, "test/loss": None}, seed=0)
    finish(tmp_path / "b", {"test/accuracy": 0.5, "test/loss": 2.0}, seed=1)
    (configuration,) = compared(tmp_path).configurations
    assert configuration.by_seed("test/loss") == {(1,): 2.0}


def test_group_by_uses_the_named_keys_only(tmp_path: Path) -> None:
    for seed, (lr, gate) in enumerate([(0.1, "fixed"), (0.1, "learned"), (0.2, "fixed")]):
        config = {"optimizer.lr": lr, "model.kind": gate}
        finish(tmp_path / str(seed), {"test/accuracy": lr}, seed=seed, config=config)
    assert labels(compared(tmp_path, group_by=["optimizer.lr"])) == [
        "optimizer.lr=0.2",
        "optimizer.lr=0.1",
    ]
    assert len(compared(tmp_path, group_by=["model", "optimizer"]).configurations) == 3
    assert len(compared(tmp_path).configurations) == 3
    assert labels(compared(tmp_path, group_by=["model.tau_ms"])) == ["default"]


def test_group_by_an_unknown_key(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.5})
    with pytest.raises(ConfigError, match=r"--group-by model\.kin: .*Did you mean 'model\.kind'"):
        compared(tmp_path, group_by=["model.kin"])


# -- excluded runs --------------------------------------------------------------------------------


def test_excluded_runs_are_counted_and_named(tmp_path: Path) -> None:
    finish(tmp_path / "done", {"test/accuracy": 0.5})
    for name in ("r1", "r2", "r3", "r4"):
        make(tmp_path / name, status="failed")
    make(tmp_path / "p", status="pruned")
    make(tmp_path / "predicted", mode="predict")
    (make(tmp_path / "torn") / "run_meta.json").write_text("{")
    stale = finish(tmp_path / "stale", {"test/accuracy": 0.1})
    meta = json.loads((stale / "run_meta.json").read_text())
    (stale / "run_meta.json").write_text(json.dumps({**meta, "status": "interrupted"}))
    found = compared(tmp_path)
    assert [run.record.path.name for c in found.configurations for run in c.runs] == ["done"]
    lines = found.excluded.lines()
    assert f"excluded: 1 pruned ({tmp_path / 'p'})" in lines
    assert f"excluded: 1 interrupted ({stale})" in lines
    assert any(line.startswith("excluded: 4 failed") and "r3 and 1 more)" in line for line in lines)
    assert any("without a report (mode=predict)" in line for line in lines)
    assert any("damaged" in line and "torn" in line for line in lines)
    assert len(found.excluded) == 8


def test_a_set_of_repeats_is_expanded_to_its_runs(tmp_path: Path) -> None:
    whole = finish(tmp_path / "set", {"test/accuracy": 0.5})
    meta = json.loads((whole / "run_meta.json").read_text())
    (whole / "run_meta.json").write_text(json.dumps({**meta, "mode": "repeats"}))
    for k in range(2):
        finish(whole / f"repeat_{k}", {"test/accuracy": 0.5}, seed=k)
    (configuration,) = compared(tmp_path).configurations
    assert [run.record.path.name for run in configuration.runs] == ["repeat_0", "repeat_1"]


def test_duplicate_runs_count_once(tmp_path: Path) -> None:
    finish(tmp_path / "a" / "b", {"test/accuracy": 0.5})
    (configuration,) = compared(tmp_path, tmp_path / "a").configurations
    assert len(configuration.runs) == 1


def test_no_finished_runs(tmp_path: Path) -> None:
    make(tmp_path / "a", status="running")
    with pytest.raises(CheckpointError, match=r"no finished run.\nexcluded: 1 killed"):
        compared(tmp_path)


# -- order ----------------------------------------------------------------------------------------


def test_the_objective_is_that_of_the_runs_and_its_direction_too(tmp_path: Path) -> None:
    for name, loss in (("a", 2.0), ("b", 1.0)):
        metrics = {"test/loss": loss, "test/score": loss}
        finish(
            tmp_path / name,
            metrics,
            f"x={name}",
            objective="test/score",
            config={"x": name, "trainer.monitor": "val/score", "trainer.direction": "min"},
        )
    found = compared(tmp_path)
    assert (found.objective, found.direction) == ("test/score", "min")
    assert labels(found) == ["x=b", "x=a"]
    assert labels(compared(tmp_path, sort="test/score", direction="max")) == ["x=a", "x=b"]
    assert labels(compared(tmp_path, sort="test/loss")) == ["x=b", "x=a"]


def test_sorted_by_another_metric(tmp_path: Path) -> None:
    found = compared(gates(tmp_path), sort="continual/forgetting", direction="max")
    assert labels(found)[0] == "model.kind=fixed"
    with pytest.raises(ConfigError, match=r"--sort test/acuracy: .*Did you mean 'test/accuracy'"):
        compared(tmp_path, sort="test/acuracy")


def test_configurations_without_the_metric_come_last(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.1}, "x=a", config={"x": "a"})
    finish(tmp_path / "b", {"val/accuracy": 0.9}, "x=b", config={"x": "b"})
    assert labels(compared(tmp_path)) == ["x=a", "x=b"]


def test_notes(tmp_path: Path) -> None:
    finish(tmp_path / "a", {"test/accuracy": 0.1, "test/odd": 1.0}, config={"x": 1})
    finish(tmp_path / "b", {"test/accuracy": 0.1, "test/odd": 1.0}, objective="test/odd")
    notes = compared(tmp_path).notes
    assert any("one seed per configuration" in note for note in notes)
    assert any("2 objectives; sorted by test/accuracy" in note for note in notes)
    notes = compared(tmp_path, sort="test/odd").notes
    assert any("--sort test/odd:min" in note for note in notes)


# -- the baseline ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.kind=fixed", "fixed-directory"])
def test_a_configuration_is_found(study: Comparison, tmp_path: Path, name: str) -> None:
    given = str(tmp_path / "fixed") if name == "fixed-directory" else name
    assert study.find(given) is study.configurations[2]
    assert study.find(str(tmp_path / "fixed" / "1")) is study.configurations[2]


def test_it_is_found_by_label_override_and_class(tmp_path: Path) -> None:
    finish(
        tmp_path / "a",
        {"test/accuracy": 0.1},
        "experiment=lif",
        config={"model": {"_target_": "mine.LIFNetwork"}},
    )
    finish(tmp_path / "b", {"test/accuracy": 0.2}, "experiment=ltgate")
    found = compared(tmp_path)
    for name in ("lif", "experiment=lif", "model=LIFNetwork"):
        assert found.find(name).label == "lif"


def test_a_missing_or_ambiguous_baseline(study: Comparison, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--baseline model.kind=fixd: .*'model.kind=fixed'"):
        study.find("model.kind=fixd")
    with pytest.raises(ConfigError, match="3 configurations fit: model.kind=variance; "):
        study.find("model.tau_ms=5.0")
    with pytest.raises(ConfigError, match="3 configurations fit"):
        study.find(str(tmp_path))


def test_the_default_columns_are_those_that_a_run_has(study: Comparison) -> None:
    assert study.default_metrics() == ("test/accuracy", "continual/forgetting")


def test_reading_many_runs_reads_no_metrics(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: RunRecord) -> None:
        raise AssertionError("metrics.jsonl was read")

    monkeypatch.setattr(RunRecord, "metrics", refuse)
    assert len(compared(gates(tmp_path)).configurations) == 3
