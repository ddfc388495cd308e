"""Damaged files and files of other programs: a NeuroError or the right content, for any damage.

Files are changed at random (hypothesis): truncated, bytes flipped, zeroed or inserted, replaced by
another kind of file, a directory or a link. Where a format has checksums, whatever is still read
must be what was written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuro.analysis.reader import RunReader
from neuro.data import inspecting, layout, made
from neuro.data.images import idx
from neuro.errors import NeuroError
from neuro.io import checkpoint
from neuro.models import file as model_file
from neuro.runs.record import RunRecord, find_runs
from neuro.runs.report import Report
from neuro.search.space import parse_space
from neuro.search.storage import storage_url
from neuro.search.study import StudySpec, open_study
from tests.data.helpers import write_hdf5, write_idx

OLD_RUN = Path(__file__).parent / "e2e" / "old_run"
SPACE = parse_space({"x": "interval(0.0,1.0)"}, (), ())
SPEC = StudySpec("fuzz", SPACE.as_text(), ("y",), ("minimize",), "code", False)


class Format(NamedTuple):
    """A kind of file: its name in a run or data set, and functions to write and read it.

    `read` returns what must be equal to what was read before the damage, or None.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], Any]


def _write_own(path: Path) -> None:
    rng = np.random.default_rng(0)
    data = rng.random((40, 6, 3), np.float32)
    content = made.Content([data[:20], data[20:]], np.arange(40) % 3, scale=0.5)
    made.write(path, {"train": content}, generator="fuzz", rate_hz=50.0, classes=range(3))


def _write_foreign(path: Path) -> None:
    rng = np.random.default_rng(0)
    content = {"data": rng.random((40, 6, 3)), "labels": np.arange(40) % 3}
    write_hdf5(path, {"train": content, "test": content}, frame_rate=100.0)


def _write_virtual(path: Path) -> None:
    source = path.with_name("source.h5")
    _write_foreign(source)
    view = h5py.VirtualLayout((40, 6, 3), np.float64)
    view[:] = h5py.VirtualSource(source.name, "train/data", (40, 6, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", view)
        file["labels"] = h5py.ExternalLink(source.name, "train/labels")


def _read_hdf5(path: Path) -> list[Any]:
    found: list[Any] = []
    for split in layout.open_splits(path).values():
        with split.blocks() as reader:
            blocks = [reader.read(i) for i in range(-(-split.shape[0] // split.block))]
        labels = None if split.labels is None else split.labels.tolist()
        values = np.concatenate(blocks).astype(np.float32)
        found.append((split.name, values.tolist(), labels, split.scale, split.rate_hz))
        found.append(split.classes)
    inspecting.inspected(path)
    return found


def _read_foreign(path: Path) -> None:
    _read_hdf5(path)  # HDF5 has no checksums unless its writer asks for them


def _write_model(path: Path) -> None:
    shutil.copy(OLD_RUN / "model.safetensors", path)


def _read_model(path: Path) -> list[Any]:
    return [(name, w.tolist()) for name, w in model_file.load(path).state_dict().items()]


def _write_checkpoint(path: Path) -> None:
    checkpoint.save(path, {"w": torch.arange(30.0), "step": 7, "rng": [torch.ones(3), "a", None]})


def _read_checkpoint(path: Path) -> str:
    return str(checkpoint.load(path))


def _write_study(path: Path) -> None:
    open_study(storage_url(None, path.parent), SPEC)


def _read_study(path: Path) -> None:
    open_study(storage_url(None, path.parent), SPEC)


def _write_run(path: Path) -> None:
    shutil.copytree(OLD_RUN, path.parent, dirs_exist_ok=True)


def _read_run(path: Path) -> None:
    """All that commands read of the runs in a directory."""
    root = path.parent
    assert RunReader(root).frame is not None
    find_runs(root)
    for read in (
        lambda run: (run.config, run.section("model")), lambda run: run.overrides,
        lambda run: run.status, lambda run: run.metrics, lambda run: (run.name, run.seed, run.time),
        lambda run: run.report, lambda run: run.repeats(), lambda run: Report.load(run.path),
    ):  # fmt: skip
        with suppress(NeuroError):  # each one separately, so that no error hides the next
            read(RunRecord(root))


def _write_events(path: Path) -> None:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.0, file_version="brain.Event:2").SerializeToString())
        for step in range(5):
            value = Summary.Value(tag="loss", simple_value=step / 4)
            event = Event(wall_time=2.0 + step, step=step, summary=Summary(value=[value]))
            writer.write(event.SerializeToString())


def _read_events(path: Path) -> None:
    # damaged files are read up to the damage, with a warning
    assert RunReader(path.parent).frame is not None


def _write_images(path: Path) -> None:  # gzipped by its name
    write_idx(path, np.arange(300).reshape(12, 5, 5) % 256)


def _read_idx(path: Path) -> list[Any]:
    inspecting.inspected(path)
    return idx.read(path, rank=3).tolist()


def _read_plain_idx(path: Path) -> None:
    _read_idx(path)  # without a checksum


FORMATS = {
    "own HDF5": Format("data.h5", _write_own, _read_hdf5),
    "HDF5": Format("data.h5", _write_foreign, _read_foreign),
    "virtual HDF5": Format("data.h5", _write_virtual, _read_foreign),
    "IDX": Format("train-images-idx3-ubyte", _write_images, _read_plain_idx),
    "gzipped IDX": Format("train-images-idx3-ubyte.gz", _write_images, _read_idx),
    "checkpoint": Format("last.safetensors", _write_checkpoint, _read_checkpoint),
    "model": Format("model.safetensors", _write_model, _read_model),
    "study": Format("study.db", _write_study, _read_study),
    "config.yaml": Format("config.yaml", _write_run, _read_run),
    "run_meta.json": Format("run_meta.json", _write_run, _read_run),
    "metrics.jsonl": Format("metrics.jsonl", _write_run, _read_run),
    "report.json": Format("report.json", _write_run, _read_run),
    "events": Format("events.out.tfevents.1.host", _write_events, _read_events),
}

FRACTION = st.floats(0, 1, exclude_max=True)
BYTES = st.tuples(st.sampled_from(["flip", "zero", "insert"]), FRACTION, st.binary(min_size=1))
DAMAGE = st.one_of(
    st.tuples(st.just("truncate"), FRACTION, st.just(b"")),
    BYTES,
    BYTES,  # as often as all other formats together
    st.tuples(st.just("text"), FRACTION, st.text().map(str.encode)),
    st.tuples(
        st.just("text"),
        FRACTION,
        st.sampled_from([b"", b"5", b"[]", b"null", b"{}", b'{"metrics": 5, "overrides": 5}',
                         b"\x89HDF\r\n\x1a\n", b"\x00\x00\x08\x03", b"SQLite format 3\x00",
                         b"\x08" + bytes(7) + b"{}      ", b"[" * 3000, b"a: &a [*a]"]),
    ),
    st.tuples(st.just("directory"), FRACTION, st.just(b"")),
    st.tuples(st.just("link"), FRACTION, st.sampled_from([b"nowhere", b"itself", b"kind"])),
    st.tuples(st.just("other kind"), FRACTION, st.just(b"")),
)  # fmt: skip


def damage(path: Path, kind: str, where: float, content: bytes, others: Path) -> None:
    """Change or replace a file; `others` holds a file of each format."""
    original = path.read_bytes()
    place = int(where * len(original))
    changed = bytearray(original)
    if kind == "truncate":
        changed = changed[:place]
    elif kind == "flip":
        for i, byte in enumerate(content, place):
            if i < len(changed):
                changed[i] ^= byte
    elif kind == "zero":
        changed[place : place + 8 * len(content)] = bytes(min(8 * len(content), len(original)))
    elif kind == "insert":
        changed[place:place] = content
    elif kind == "text":
        changed = bytearray(content)
    elif kind == "other kind":
        files = sorted(others.iterdir())
        changed = bytearray(files[int(where * len(files))].read_bytes())
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "link":
        targets = {b"nowhere": path.with_name("none"), b"itself": path, b"kind": others}
        path.symlink_to(targets[content])
    else:
        path.write_bytes(bytes(changed))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a sound file of each format."""
    folder = tmp_path_factory.mktemp("samples")
    for number, (name, form) in enumerate(FORMATS.items()):
        place = folder / "made" / str(number)
        place.mkdir(parents=True)
        form.write(place / form.name)
        (folder / "files").mkdir(exist_ok=True)
        shutil.copy(place / form.name, folder / "files" / name.replace(" ", "_"))
    yield folder


def _check(samples: Path, name: str, damages: list[tuple[str, float, bytes]]) -> None:
    form = FORMATS[name]
    pristine = samples / "made" / str(list(FORMATS).index(name))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        shutil.copytree(pristine, place)
        right = form.read(place / form.name)
        for one in damages:
            if not (place / form.name).is_file():
                break
            damage(place / form.name, *one, samples / "files")
        try:
            found = form.read(place / form.name)
        except NeuroError:
            return
        replaced = any(kind == "other kind" for kind, _, _ in damages)  # maybe by a sound file
        assert right is None or replaced or found == right


@pytest.mark.filterwarnings("ignore")  # of libraries, about damaged content
@pytest.mark.parametrize("name", FORMATS)
def test_damage_gives_a_message_or_the_right_content(samples: Path, name: str) -> None:
    _run(samples, name, examples=8)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_much_damage_gives_a_message_or_the_right_content(samples: Path, name: str) -> None:
    _run(samples, name, examples=80)


def _run(samples: Path, name: str, *, examples: int) -> None:
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.lists(DAMAGE, min_size=1, max_size=2))
    def check(damages: list[tuple[str, float, bytes]]) -> None:
        _check(samples, name, damages)

    check()
