"""Scalars of many runs in one table, from JSONL and from TensorBoard's event files."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import pandas as pd
import pytest

from neuro.__main__ import main
from neuro.analysis.reader import COLUMNS, RunReader
from neuro.errors import CheckpointError, ConfigError


def make(path: Path, points: list[tuple[int, float]], group: str | None = None) -> Path:
    """A run that logged train/loss and, at its last step, val/accuracy."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("seed: 0\n")
    (path / "run_meta.json").write_text(json.dumps({"group": group, "status": "completed"}))
    rows = [{"step": s, "time": 100.0 + s, "train/loss": v} for s, v in points]
    rows.append({"step": points[-1][0], "time": 200.0, "val/accuracy": 0.5})
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_events(folder: Path, points: list[tuple[str, float, int]]) -> Path:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    for tag, value, step in points:
        writer.add_scalar(tag, value, step, walltime=300.0 + step)
    writer.close()
    (file,) = folder.glob("events*")
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep, a set of repeats, and a run of another program's TensorBoard."""
    make(tmp_path / "sweep" / "0", [(1, 2.0), (2, 1.0)])
    make(tmp_path / "sweep" / "1", [(1, 3.0), (2, math.nan)], group="mine")
    for k in (0, 1):
        make(tmp_path / "exp" / "set" / f"repeat_{k}", [(5, 0.1 + k)])
    write_events(tmp_path / "foreign" / "logs", [("loss", 0.5, 1), ("loss", 0.25, 2)])
    return tmp_path


def test_every_directory_level_gives_one_frame(folder: Path) -> None:
    reader = RunReader(folder)
    assert tuple(reader.frame.columns) == COLUMNS
    assert reader.runs == (
        "exp/set/repeat_0",
        "exp/set/repeat_1",
        "foreign/logs",
        "sweep/0",
        "sweep/1",
    )
    row = reader.frame.query("run == 'exp/set/repeat_1' and tag == 'train/loss'").iloc[0]
    assert row.to_dict() == {
        "step": 5,
        "tag": "train/loss",
        "value": 1.1,
        "wall_time": 105.0,
        "run": "exp/set/repeat_1",
        "group": "set",
        "repeat": 1,
    }
    foreign = reader.frame.query("run == 'foreign/logs'")
    assert list(foreign["value"]) == [0.5, 0.25] and list(foreign["step"]) == [1, 2]
    assert list(foreign["wall_time"]) == [301.0, 302.0]
    assert math.isnan(reader.frame.query("run == 'sweep/1' and step == 2")["value"].iloc[0])
    one = RunReader(folder / "sweep" / "0")
    assert one.runs == (".",) and set(one.frame["group"]) == {"sweep"}


def test_tags_groups_and_filters(folder: Path) -> None:
    reader = RunReader(folder)
    assert reader.tags() == ["loss", "train/loss", "val/accuracy"]
    assert reader.tags("^val") == ["val/accuracy"]
    assert reader.groups() == {
        "foreign": ["foreign/logs"],
        "mine": ["sweep/1"],
        "sweep": ["sweep/0"],
        "set": ["exp/set/repeat_0", "exp/set/repeat_1"],
    }
    assert set(reader.scalars("loss$", groups=["set", "mine"])["run"]) == {
        "exp/set/repeat_0",
        "exp/set/repeat_1",
        "sweep/1",
    }
    assert set(reader.scalars(runs="repeat_1")["repeat"]) == {1}
    with pytest.raises(ConfigError, match=r"no group 'swep'.*Did you mean 'sweep'"):
        reader.scalars(groups="swep")
    with pytest.raises(ConfigError, match=r"tags: '\(' is not a regular expression"):
        reader.tags("(")


def test_summary(folder: Path) -> None:
    summary = RunReader(folder).summary("train/loss", groups="sweep")
    (row,) = summary.to_dict("records")
    assert row == {
        "group": "sweep",
        "repeat": 0,
        "run": "sweep/0",
        "tag": "train/loss",
        "points": 2,
        "first_step": 1,
        "last_step": 2,
        "last": 1.0,
        "min": 1.0,
        "max": 2.0,
    }


def test_csv_of_all_and_per_run(folder: Path, tmp_path: Path) -> None:
    reader = RunReader(folder)
    (everything,) = reader.to_csv(tmp_path / "new" / "all.csv")
    pd.testing.assert_frame_equal(pd.read_csv(everything), reader.frame)
    files = reader.to_csv(tmp_path / "each", per_run=True, groups="sweep")
    assert files == [tmp_path / "each" / "sweep" / "0.csv"]
    table = pd.read_csv(files[0])
    assert list(table.columns) == ["step", "train/loss", "val/accuracy"]
    assert list(table["train/loss"]) == [2.0, 1.0]


def test_csv_files_of_runs_with_similar_paths_differ(tmp_path: Path) -> None:
    make(tmp_path / "runs" / "a" / "b_c", [(1, 1.0)])
    make(tmp_path / "runs" / "a_b" / "c", [(1, 2.0)])
    files = RunReader(tmp_path / "runs").to_csv(tmp_path / "each", per_run=True)
    assert [pd.read_csv(file)["train/loss"][0] for file in files] == [1.0, 2.0]


def test_a_runs_own_events_are_read_where_it_has_no_jsonl(tmp_path: Path) -> None:
    run = make(tmp_path / "r", [(1, 2.0)])
    write_events(run / "tensorboard", [("train/loss", 7.0, 1)])
    assert list(RunReader(tmp_path).scalars("loss")["value"]) == [2.0]
    (run / "metrics.jsonl").unlink()
    reader = RunReader(tmp_path)
    assert reader.runs == ("r",) and list(reader.scalars("loss")["value"]) == [7.0]


def test_the_last_value_of_a_repeated_step_counts(tmp_path: Path) -> None:
    make(tmp_path / "r", [(1, 2.0), (2, 9.0), (2, 1.0)])
    assert list(RunReader(tmp_path).scalars("loss")["value"]) == [2.0, 1.0]


def test_unreadable_files_are_named_and_skipped(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (folder / "sweep" / "0" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "train/lo')
    (folder / "sweep" / "1" / "run_meta.json").write_text("{")
    events = write_events(folder / "torn", [("loss", 1.0, 1), ("loss", 2.0, 2)])
    events.write_bytes(events.read_bytes()[:-7])
    (folder / "empty").mkdir()
    (folder / "empty" / "events.out.tfevents.1.host").touch()
    with caplog.at_level(logging.WARNING):
        frame = RunReader(folder).frame
    assert list(frame.query("run == 'sweep/0' and tag == 'train/loss'")["value"]) == [2.0, 1.0]
    assert "sweep/1" in set(frame["run"])
    assert list(frame.query("run == 'torn'")["value"]) == [1.0]
    told = caplog.text
    assert "sweep/0/metrics.jsonl: 1 incomplete line(s) skipped" in told
    assert "sweep/1/run_meta.json: skipped" in told
    assert "events.out.tfevents.1.host: incomplete" in told
    assert f"{events}: incomplete, read as far as possible" in told
    assert str(folder / "foreign") not in told


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory"):
        RunReader(tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no run"):
        RunReader(tmp_path)


def test_two_hundred_runs_take_no_time(tmp_path: Path) -> None:
    for i in range(200):
        make(tmp_path / f"g{i % 4}" / str(i), [(s, 1.0) for s in range(50)])
    RunReader(tmp_path / "g0").frame  # noqa: B018  imports pandas
    started = time.perf_counter()
    frame = RunReader(tmp_path).frame
    assert len(frame) == 200 * 51
    assert time.perf_counter() - started < 3


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["scalars", str(folder), "--tags", "val/", "--group", "set"]) == 0
    shown = capsys.readouterr().out
    assert "repeat_1" in shown and "val/accuracy" in shown and "sweep" not in shown
    out = tmp_path / "csv"
    assert main(["scalars", str(folder), "--csv", str(out), "--per-run", "--runs", "sweep"]) == 0
    assert "2 file(s) written" in capsys.readouterr().out
    assert main(["scalars", str(folder), "--per-run"]) == 2
    assert "--csv <folder>" in capsys.readouterr().err
    assert main(["scalars", str(folder), "--tags", "nothing"]) == 2
    assert "Names: loss, train/loss" in capsys.readouterr().err


def test_events_of_other_programs(tmp_path: Path) -> None:
    """Scalars as tensors of TF 2 and Keras, a restart with purge_step, and damage."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.summary.writer.record_writer import RecordWriter
    from tensorboard.util.tensor_util import make_tensor_proto

    scalars = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="scalars"))

    def write(name: str, *events: Event) -> Path:
        path = tmp_path / "logs" / f"events.out.tfevents.{name}.host"
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())
        return path

    def logged(step: int, value: float, metadata: SummaryMetadata | None = None) -> Event:
        tensor = make_tensor_proto(value, dtype="float32")
        summary = Summary.Value(tag="loss", tensor=tensor, metadata=metadata)
        return Event(step=step, wall_time=step, summary=Summary(value=[summary]))

    write("1", logged(1, 0.5, scalars), logged(2, 0.4), logged(3, 0.3))
    restart = Event(step=2, session_log=SessionLog(status=SessionLog.START))
    second = write("2", restart, logged(2, 0.25), logged(3, 0.125))

    def losses() -> dict[int, float]:
        frame = RunReader(tmp_path).frame
        return dict(zip(frame["step"], frame["value"].round(4), strict=True))

    assert losses() == {1: 0.5, 2: 0.25, 3: 0.125}
    content = bytearray(second.read_bytes())
    content[-6] ^= 0xFF  # in the value of the last record, whose checksum is then wrong
    second.write_bytes(content)
    assert losses() == {1: 0.5, 2: 0.25}
