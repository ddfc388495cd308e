"""`python -m neuro data make|inspect`: make a data source's files, and look into any data file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neuro.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    import numpy as np

    from neuro.data.store import Split

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


def register(commands: Any) -> None:
    """Add `data` with its subcommands."""
    data = commands.add_parser("data", help="make data files, or look into one")
    actions = data.add_subparsers(metavar="make|inspect", required=True)

    make_parser = actions.add_parser("make", help="make or convert the data of conf/data/<name>")
    make_parser.add_argument("name", help="an option of the data group, such as temporal_digits")
    make_parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of that option, e.g. coding=poisson"
    )
    make_parser.set_defaults(run=lambda a: make(a.name, a.overrides))

    inspect_parser = actions.add_parser("inspect", help="what an HDF5 or IDX file holds")
    inspect_parser.add_argument("file", type=Path)
    inspect_parser.set_defaults(run=lambda a: print("\n".join(inspect(a.file))))


def make(name: str, overrides: list[str]) -> None:
    """Build the source that a config option describes, prepare it, and say what it holds."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from neuro.build import build
    from neuro.data.base import SPLITS, DataSource
    from neuro.data.sequences import SequenceSource

    file = CONF / f"{name}.yaml"
    if not file.is_file():
        options = sorted(path.stem for path in CONF.glob("*.yaml"))
        raise ConfigError(
            f"data={name}: no such option; there are {', '.join(options)}.{nearest(name, options)}"
        )
    if wrong := [text for text in overrides if "=" not in text]:
        raise ConfigError([f"{text!r}: expected key=value." for text in wrong])
    try:
        node = OmegaConf.merge(OmegaConf.load(file), OmegaConf.from_dotlist(overrides))
        config = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"data.{error.full_key or name}: {error.msg}") from error
    source = build(config, DataSource, "data")
    source.prepare()
    for task in source.tasks:
        spec = source.spec(task)
        timings = " or ".join(f"{frames} x {dt:g} ms" for frames, dt in spec.timings)
        shape = " x ".join(map(str, spec.input_shape))
        print(f"{task}: {shape}, {timings}, {spec.target}, classes {_listed(spec.classes)}")
        for split in SPLITS:
            print(f"  {split:5s} {source.loader(task, split).samples:6d} samples")
            if isinstance(source, SequenceSource):
                for part in source.parts(task, split):
                    held = ", held" if part.split.held_frames else ""
                    print(
                        f"        {len(part):6d} of {part.split.frames} frames{held} at "
                        f"{part.rate_hz:g} Hz in {part.split.path}"
                    )


def inspect(path: Path) -> list[str]:
    """Lines that say what a file holds, whether neuro can use it, and how."""
    import h5py

    from neuro.data import idx

    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if h5py.is_hdf5(path):
        return list(_inspect_hdf5(path))
    with path.open("rb") as handle:
        start = handle.read(3)
    if start[:2] != idx.GZIP_MAGIC and start != b"\0\0\x08":
        raise DataError(f"{path}: neither HDF5 nor IDX (begins with {start!r}).")
    return list(_inspect_idx(path))


def _inspect_hdf5(path: Path) -> Iterator[str]:
    import h5py

    from neuro.data import store

    yield f"{path}: HDF5, {_size(path)}"
    try:
        splits = store.read(path)
    except DataError as error:
        # show what is there before saying why it cannot be used
        try:
            with h5py.File(path, "r") as file:
                found: list[str] = []
                file.visititems(lambda name, item: found.append(_described(name, item)))
        except (OSError, RuntimeError):
            found = []
        raise DataError("\n".join([str(error), *(f"  {line}" for line in found[:20])])) from error
    first = next(iter(splits.values()))
    with h5py.File(path, "r") as file:
        for name, value in file.attrs.items():
            yield f"  {name}: {value}"
    problems: list[str] = []
    for split in splits.values():
        yield f"{split.name or 'root'}: {split.shape[0]} samples"
        yield from (f"  {line}" for line in _describe_split(split, problems))
    if first.rate_hz is None:
        problems.append("no attribute frame_rate (Hz): set data.rate_hz")
    if problems:
        yield "not usable as it is:"
        yield from (f"  {problem}" for problem in problems)
    else:
        yield "well-formed for neuro"
    rate = "" if first.rate_hz else " data.rate_hz=<Hz>"
    yield f"use it:  data=hdf5 data.path={path}{rate}"


def _describe_split(split: Split, problems: list[str]) -> Iterator[str]:
    held = f", one frame held for {split.held_frames}" if split.held_frames else ""
    yield f"data {split.dtype} {list(split.shape)}{held}; read in blocks of {split.block} samples"
    rate = f"{split.rate_hz:g} Hz, dt {1000 / split.rate_hz:g} ms, " if split.rate_hz else ""
    yield f"timing {rate}{split.frames} frames"
    try:
        split.verify()
    except DataError as error:
        problems.append(str(error))
    else:
        low, high = _range(split)
        scale = f"times {split.scale:g}" if split.scale else "no scale given"
        yield f"values {low:g} to {high:g}, {scale}"
    if split.labels is None:
        yield "no labels"
    elif split.labels.dtype.kind == "f":
        yield f"labels float {list(split.labels.shape)}"
    else:
        yield f"labels int {list(split.labels.shape)}: {_counts(split.labels)}"
        outside = set(split.labels.ravel().tolist()) - set(split.classes or split.labels.ravel())
        if outside or split.labels.min() < 0:
            problems.append(
                f"{split.name or 'root'}: labels outside the classes: {sorted(outside)}"
            )


def _range(split: Split) -> tuple[float, float]:
    with split.blocks() as reader:
        numbers = range(-(-split.shape[0] // split.block))
        extremes = [(b.min(), b.max()) for b in (reader.read(n) for n in numbers)]
    return float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))


def _inspect_idx(path: Path) -> Iterator[str]:
    from neuro.data import idx

    array = idx.read(path)
    yield f"{path}: IDX, {_size(path)}, uint8 {list(array.shape)}"
    if array.ndim == 1:
        yield f"labels: {_counts(array)}"
    elif array.size:
        yield f"values {array.min()} to {array.max()}"
    yield f"use it:  data=temporal_mnist data.path={path.parent}  (with its three companions)"


def _described(name: str, item: Any) -> str:
    shape = getattr(item, "shape", None)
    return f"{name}/" if shape is None else f"{name} {item.dtype} {list(shape)}"


def _counts(labels: np.ndarray[Any, Any]) -> str:
    import numpy as np

    values, counts = np.unique(labels, return_counts=True)
    shown = ", ".join(f"{v}: {c}" for v, c in list(zip(values, counts, strict=True))[:20])
    return f"{len(values)} classes ({shown}{', ...' if len(values) > 20 else ''})"


def _listed(classes: tuple[int, ...]) -> str:
    return ", ".join(map(str, classes)) or "none"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.3g} MB"
