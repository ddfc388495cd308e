"""metrics.jsonl, metrics.csv and TensorBoard's event files, also across a resume."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from neuro.config.build import build_all, parse_all
from neuro.errors import BackendUnavailable
from neuro.tracking.base import RunInfo, Tracker, Trackers
from neuro.tracking.csv import CsvTracker
from neuro.tracking.jsonl import JsonlTracker, read_rows
from neuro.tracking.meta import MetaTracker
from neuro.tracking.tensorboard import TensorBoardTracker
from tests.components import check

CONF = Path(__file__).parents[2] / "conf" / "tracking"


def info(directory: Path, **changes) -> RunInfo:
    return RunInfo(
        **{"directory": directory, "run_id": "r1", "name": "n", "project": "p"} | changes
    )


def abandon(*trackers) -> None:
    """Close the files without calling `finish`, as a killed process does."""
    for tracker in trackers:
        file = tracker._summary_writer if isinstance(tracker, TensorBoardTracker) else tracker._file
        file.close()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_jsonl_holds_one_valid_object_per_line(tmp_path):
    tracker = JsonlTracker()
    tracker.start(info(tmp_path), {})
    tracker.log({"train/loss": 0.5, "n": 3}, 1)
    tracker.log({"train/loss": float("nan"), "x": np.float32("inf")}, 2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # written without a flush

    def refuse(name):
        raise AssertionError(f"bare {name} in JSON")

    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    assert first.pop("time") == pytest.approx(second.pop("time"), abs=5)
    assert first == {"step": 1, "train/loss": 0.5, "n": 3}
    assert second == {"step": 2, "train/loss": None, "x": None}
    tracker.finish("completed")


def test_jsonl_is_cut_to_the_checkpoint_and_continued(tmp_path):
    tracker = JsonlTracker()
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1}, 1)
    tracker.flush()
    length = tracker.length()
    assert length == (tmp_path / "metrics.jsonl").stat().st_size
    tracker.log({"a": 2}, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ti')  # killed while writing
    abandon(tracker)
    resumed = JsonlTracker()
    resumed.start(info(tmp_path, resumed=True, kept_bytes=length), {})
    assert resumed.length() == length
    resumed.log({"a": 20}, 2)
    resumed.finish("completed")
    assert [(row["step"], row["a"]) for row in read_rows(tmp_path)] == [(1, 1), (2, 20)]


def test_jsonl_of_a_new_run_starts_empty_and_truncate_works_while_open(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    tracker = JsonlTracker()
    tracker.start(info(tmp_path), {})
    assert tracker.length() == 0
    tracker.log({"a": 1}, 1)
    length = tracker.length()
    tracker.log({"a": 2}, 2)
    tracker.truncate(length)
    tracker.log({"a": 3}, 3)
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 3]
    tracker.finish("failed")
    tracker.finish("failed")  # a second call has no effect


def test_jsonl_warns_of_missing_history(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0, "a": 1}\n{"st')
    tracker = JsonlTracker()
    with caplog.at_level(logging.WARNING):
        tracker.start(info(tmp_path, resumed=True, kept_bytes=500), {})
    assert "some of the history before the resume is lost" in caplog.text
    assert [row["step"] for row in read_rows(tmp_path)] == [1]
    tracker.finish("completed")


def test_csv_has_a_row_per_step_and_growing_columns(tmp_path):
    tracker = CsvTracker()
    tracker.start(info(tmp_path), {})
    tracker.log({"train/loss": 0.5}, 1)
    tracker.log({"train/loss": 0.4}, 2)
    tracker.log({"val/loss": float("nan"), "val/accuracy": 0.9}, 2)
    tracker.log({"train/loss": 0.3}, 3)
    tracker.flush()
    written = rows_of(tmp_path / "metrics.csv")
    assert [row["step"] for row in written] == ["1", "2"]  # the third row may still change
    tracker.log({"train/loss": 0.2}, 4)
    tracker.finish("completed")
    written = rows_of(tmp_path / "metrics.csv")
    assert list(written[0]) == ["step", "time", "train/loss", "val/loss", "val/accuracy"]
    assert [row["train/loss"] for row in written] == ["0.5", "0.4", "0.3", "0.2"]
    assert [row["val/accuracy"] for row in written] == ["", "0.9", "", ""]
    assert [row["val/loss"] for row in written] == ["", "", "", ""]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]  # no leftovers


def test_csv_of_a_resumed_run_follows_what_metrics_jsonl_keeps(tmp_path):
    both = Trackers((JsonlTracker(), CsvTracker()))
    both.start(info(tmp_path), {})
    both.log({"a": 1.0}, 1)
    both.log({"b": 2.0}, 1)
    both.flush()
    length = both.trackers[0].length()
    both.log({"a": 5.0, "lost": 1.0}, 2)
    both.log({"a": 6.0}, 3)
    both.flush()
    abandon(*both.trackers)
    for order in ((JsonlTracker(), CsvTracker()), (CsvTracker(), JsonlTracker())):
        resumed = Trackers(order)
        resumed.start(info(tmp_path, resumed=True, kept_bytes=length), {})
        resumed.log({"a": 7.0}, 2)
        resumed.finish("completed")
        written = rows_of(tmp_path / "metrics.csv")
        cells = [(row["step"], row["a"], row["b"]) for row in written]
        assert cells == [("1", "1.0", "2.0"), ("2", "7.0", "")]
        assert "lost" not in written[0]


def events(directory: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / "tensorboard"))
    accumulator.Reload()
    return accumulator


def png(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 4), "red").save(path)
    return path


def test_tensorboard_reads_back(tmp_path):
    tracker = TensorBoardTracker()
    tracker.start(info(tmp_path), {"model": {"width": 32}})
    assert not (tmp_path / "tensorboard").exists()  # no files before the first row
    tracker.log({"train/loss": 0.5}, 10)
    tracker.log_artifact(png(tmp_path / "plot.png"), "plots/curve", 3)
    tracker.log_artifact(tmp_path / "report.json", "report", 3)  # unsupported, but no error
    tracker.add_config({"found_lr": {"task1": 0.003}})
    tracker.summary({"test/accuracy": 0.9})
    tracker.finish("completed")
    read = events(tmp_path)
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(10, 0.5)]
    image = read.Images("plots/curve")[0]
    assert (image.width, image.height, image.step) == (8, 4, 3)
    config = read.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert '"width": 32' in config
    assert "found_lr" in str(read.Tensors("config/found/text_summary")[0])
    assert "test/accuracy" in str(read.Tensors("summary/text_summary")[0])


def test_found_values_are_added_to_run_meta(tmp_path):
    (tmp_path / "run_meta.json").write_text('{"status": "running", "seed": 0}')
    tracker = MetaTracker()
    tracker.start(info(tmp_path), {})
    tracker.add_config({"found_lr": {"one": 0.1}})
    tracker.add_config({"found_lr": {"one": 0.1, "two": 0.2}})
    assert json.loads((tmp_path / "run_meta.json").read_text()) == {
        "status": "running",
        "seed": 0,
        "found_lr": {"one": 0.1, "two": 0.2},
    }


def test_tensorboard_of_a_resumed_run_drops_rows_after_the_checkpoint(tmp_path):
    jsonl, tracker = JsonlTracker(), TensorBoardTracker()
    both = Trackers((jsonl, tracker))
    both.start(info(tmp_path), {})
    both.log({"a": 1.0}, 1)
    length = jsonl.length()
    both.log({"a": 2.0}, 2)
    both.log({"a": 3.0}, 3)
    both.flush()
    abandon(*both.trackers)
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.rename(
        file.with_name("events.out.tfevents.0000000001.earlier")
    )  # simulates an earlier start
    resumed = Trackers((TensorBoardTracker(), JsonlTracker()))
    resumed.start(info(tmp_path, resumed=True, kept_bytes=length), {})
    resumed.log({"a": 20.0}, 2)
    resumed.finish("completed")
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("a")] == [(1, 1.0), (2, 20.0)]


def test_tensorboard_flush_interval_is_passed_to_the_writer(tmp_path):
    tracker = TensorBoardTracker(flush_every_s=7)
    tracker.start(info(tmp_path), {})
    tracker.log({"a": 1.0}, 1)
    assert tracker._summary_writer.flush_secs == 7
    tracker.finish("completed")


@pytest.mark.parametrize("option", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(option, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tracker,) = build_all(parse_all(load(option), Tracker, "tracking")).values()
    with pytest.raises(BackendUnavailable, match=f"pip install {option}"):
        tracker.start(info(tmp_path), {})


def load(option: str):
    import yaml

    return yaml.safe_load((CONF / f"{option}.yaml").read_text())


@pytest.mark.parametrize("option", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_option_builds_and_names_every_key(option):
    nodes = load(option)
    built = build_all(parse_all(nodes, Tracker, "tracking"))
    assert list(built) == ([] if option == "none" else [option])
    for name, tracker in built.items():
        public = {key for key in vars(tracker) if not key.startswith("_")}
        assert public == set(nodes[name]) - {"_target_"}
    lines = (CONF / f"{option}.yaml").read_text().splitlines()
    keys = [line for line in lines if line.startswith("  ") and "_target_" not in line]
    assert all(" # " in line for line in keys)


def test_several_options_compose_into_one_mapping():
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        cfg = compose(overrides=["+tracking=[none,csv,wandb]"])
    assert list(cfg.tracking) == ["csv", "wandb"]


def test_bad_values_are_refused():
    node = {**load("wandb")["wandb"], "mode": "ofline", "finish_timeout_s": 0}
    problems = " ".join(check(node, Tracker, "tracking.wandb"))
    assert "tracking.wandb.mode" in problems and "Did you mean 'offline'" in problems
    assert "tracking.wandb.finish_timeout_s" in problems
